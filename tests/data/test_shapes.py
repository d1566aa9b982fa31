"""The question generator: what it writes is repeatable, separate, answerable and not guessable."""

import io
import random
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
from datasets import load_dataset
from PIL import Image

from yopo_train.data.shapes import KINDS, build, draw, sample_scene
from yopo_train.data.shapes.build import STYLES, SceneSource, main, question_rows
from yopo_train.data.shapes.glyphs import DIGITS, LETTERS
from yopo_train.data.shapes.questions import list_things
from yopo_train.data.shapes.scene import COLOURS, IMAGE_SIZE, SHAPES, Scene, png_bytes
from yopo_train.errors import UserError

SHIPPED = Path(__file__).parents[2] / "data" / "tiny-vqa"
COMPASS = ["northwest", "north", "northeast", "west", "centre", "east", "southwest", "south", "southeast"]
ROWS = {"train": 60, "calibration": 10, "validation": 15, "test": 25}


def images_of(rows: list[dict]) -> set[bytes]:
    return {row["images"][0]["bytes"] for row in rows}


def turns_of(row: dict) -> list[tuple[str, str]]:
    texts = [message["content"].removeprefix("<image>\n") for message in row["messages"]]
    return list(zip(texts[::2], texts[1::2], strict=True))


def word_of(thing) -> str:
    return "digit" if thing.form in DIGITS else "letter" if thing.form in LETTERS else thing.form


def answer_by_looking(scene: Scene, question: str) -> str:
    """The answer found again from the scene, by other means than the generator's."""
    words, things = question.rstrip("?.").split(), scene.things
    order = {word: i for i, word in enumerate([*SHAPES, "digit", "letter"])}
    cells = {word_of(t): 3 * (t.y // 32) + t.x // 32 for t in sorted(things, key=lambda t: order[word_of(t)])}
    colours = {word_of(t): t.colour for t in things}
    number = Counter(colours.values())
    if question == "List all objects.":
        return ", ".join(f"{COMPASS[3 * (t.y // 32) + t.x // 32]} {t.colour} {t.form}" for t in things)
    if question == "List all places.":
        return ", ".join(f"{word} {COMPASS[cell]}" for word, cell in cells.items())
    if question == "List all colours.":
        return ", ".join(f"{word} {colours[word]}" for word in cells)
    if question == "Count all colours.":
        return ", ".join(f"{colour} {number[colour]}" for colour in COLOURS if number[colour])
    if question == "What is shown?":
        return ", ".join(sorted(f"{word_of(t)} {t.form}" for t in things if word_of(t) != t.form))
    if question.startswith("List all objects "):
        before, after = words[-3], words[-1]
        line = {word: cell % 3 if before == "left" else cell // 3 for word, cell in cells.items()}
        pairs = [(a, b) for a, b in pairwise(line) if line[a] != line[b]]
        return ", ".join(f"{a} {b} {before if line[a] < line[b] else after}" for a, b in pairs)
    if question.startswith("Where is"):
        return COMPASS[cells[words[-1]]]
    if question.startswith("What colour"):
        return colours[words[-1]]
    if question.startswith("Is there"):
        return "yes" if words[-1] in colours or (words[-1] == "object" and number[words[-2]]) else "no"
    if question.startswith("How many"):
        return str(number[words[2]])
    if question.startswith("Which"):
        (thing,) = [t for t in things if word_of(t) == words[1]]
        return thing.form
    one, other = cells[words[2]], cells[words[-1]]
    if "left" in words:
        return "left" if one % 3 < other % 3 else "right"
    return "above" if one // 3 < other // 3 else "below"


@pytest.mark.parametrize("style", STYLES)
def test_same_seed_same_rows_and_no_shared_image(tmp_path, style):
    first = build(tmp_path / "a", style, seed=3, **ROWS)
    again = build(tmp_path / "b", style, seed=3, **ROWS)
    other = build(tmp_path / "c", style, seed=4, **ROWS)
    assert first == again
    assert first != other
    assert {split: len(rows) for split, rows in first.items()} == ROWS
    total = set().union(*map(images_of, first.values()))
    assert len(total) == sum(len(images_of(rows)) for rows in first.values())
    assert not total & set().union(*map(images_of, other.values()))


@pytest.mark.parametrize("style", STYLES)
def test_answers_follow_from_the_scene(style, monkeypatch):
    source, drawn = SceneSource(), {}

    def remember(rng):
        scene, png = source(rng)
        drawn[png] = scene
        return scene, png

    kinds = Counter()
    for row in STYLES[style](150, "test", remember, random.Random(0)):
        kinds[row["kind"]] += 1
        (image,) = row["images"]
        assert sum(message["content"].count("<image>") for message in row["messages"]) == 1
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * (len(row["messages"]) // 2)
        for question, answer in turns_of(row):
            assert answer_by_looking(drawn[image["bytes"]], question) == answer, question
    one = "list" if style == "list" else "dialogue"
    assert kinds == (dict.fromkeys(KINDS, 30) if style == "questions" else {one: 150})


@pytest.mark.parametrize("style", ["questions", "dialogue", "drill"])
def test_dialogues_ask_every_kind_before_they_list(style):
    """Where a list came first, a question could be answered from the text."""
    rows = list(STYLES[style](40, "train", SceneSource(), random.Random(0)))
    starts = set()
    for row in rows:
        listed = [question.endswith(".") or question == "What is shown?" for question, _ in turns_of(row)]
        assert sum(listed) <= 3
        assert listed == sorted(listed)
        starts |= {
            question.split()[0] for (question, _), is_list in zip(turns_of(row), listed, strict=True) if not is_list
        }
    assert starts == {"What", "Is", "How", "Where", "Which"}


def test_answers_cannot_be_guessed():
    """Always giving a kind's most frequent answer is seldom right (of a relation, the question names two: half)."""
    answers = defaultdict(Counter)
    for row in question_rows(3000, "test", SceneSource(), random.Random(0)):
        ((_, answer),) = turns_of(row)
        answers[row["kind"]][answer] += 1
    usual = {kind: max(found.values()) / sum(found.values()) for kind, found in answers.items()}
    assert usual["existence"] == 0.5
    assert usual["relation"] == 0.25
    assert usual["count"] < 0.32
    assert usual["colour"] < 0.2
    assert usual["read"] < 0.12


def test_pictures():
    rng = random.Random(0)
    for _ in range(20):
        scene = sample_scene(rng)
        assert len({word_of(thing) for thing in scene.things}) == len(scene.things)  # one word means one thing
        image = draw(scene)
        assert image.size == (IMAGE_SIZE, IMAGE_SIZE)
        assert image.tobytes() == draw(scene).tobytes()
        assert Image.open(io.BytesIO(png_bytes(image))).tobytes() == image.tobytes()
        colours = {colour for _, colour in image.getcolors()}
        assert colours == {scene.background, *(COLOURS[thing.colour] for thing in scene.things)}
        assert list_things(scene).answer.count(",") == len(scene.things) - 1


def test_apart_from(tmp_path):
    first = build(tmp_path / "a", "dialogue", seed=0, train=20)
    same_seed = build(tmp_path / "b", "dialogue", seed=0, apart_from=tmp_path / "a", train=20)
    assert not images_of(first["train"]) & images_of(same_seed["train"])
    with pytest.raises(UserError, match="nothing-here"):
        build(tmp_path / "c", apart_from=tmp_path / "nothing-here", train=5)


def test_a_full_folder_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path), "--train", "5"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}")
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_shipped_set(tmp_path):
    """What ships is what the command in the generator's docstring writes, and `load_dataset` reads it."""
    shipped = load_dataset(str(SHIPPED), cache_dir=str(tmp_path))
    assert {split: len(rows) for split, rows in shipped.items()} == {
        "train": 3200,
        "calibration": 320,
        "validation": 300,
        "test": 1000,
    }
    assert Counter(shipped["test"]["kind"]) == dict.fromkeys(KINDS, 200)
    rng = random.Random("0/questions/train")
    fresh = question_rows(3200, "train", SceneSource(), rng)
    for row, expected in zip(shipped["train"].select(range(5)), fresh, strict=False):
        assert row["messages"] == expected["messages"]
        picture = Image.open(io.BytesIO(expected["images"][0]["bytes"]))
        assert row["images"][0].tobytes() == picture.tobytes()
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 4e6
