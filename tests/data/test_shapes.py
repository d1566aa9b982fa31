"""The question generator: what it writes is repeatable, separate, answerable and not guessable."""

import io
import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from datasets import load_dataset
from PIL import Image

from yopo_train.data.shapes import KINDS, build, draw, sample_scene
from yopo_train.data.shapes.build import SceneSource, dialogue_rows, main, question_rows, quiz_rows
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


def answer_by_looking(scene: Scene, question: str) -> str:
    """The answer found again from the scene, by other means than the generator's."""
    words, things = question.rstrip("?.").split(), scene.things
    places = {3 * (t.y // 32) + t.x // 32: f"{t.colour} {t.form}" for t in things}
    if question.startswith("List"):
        return ", ".join(f"{COMPASS[cell]} {places[cell]}" for cell in sorted(places))
    if question.startswith("What is in"):
        return places.get(COMPASS.index(words[-1]), "nothing")
    if question.startswith("Where are"):
        looks = [(t.form, t.colour, COMPASS[3 * (t.y // 32) + t.x // 32]) for t in things]
        order = [*SHAPES, *DIGITS, *LETTERS]
        looks.sort(key=lambda look: (order.index(look[0]), look[1], COMPASS.index(look[2])))
        return ", ".join(map(" ".join, looks))
    if question.startswith("Where is") and "relative" not in words:
        (thing,) = [t for t in things if words[3:] in ([t.form], [t.colour, t.form])]
        return COMPASS[3 * (thing.y // 32) + thing.x // 32]
    if question.startswith("What colour"):
        (thing,) = [t for t in things if t.form == words[-1]]
        return thing.colour
    if question.startswith("Is there"):
        return "yes" if any([t.colour, t.form] == words[-2:] for t in things) else "no"
    if question.startswith("How many"):
        word = words[2]
        return str(sum(word == t.colour or word in (f"{t.form}s", f"{t.form}es") for t in things))
    if question.startswith("Which"):
        names = DIGITS if words[1] == "digit" else LETTERS
        (thing,) = [t for t in things if t.form in names and words[-1] in ("shown", t.colour)]
        return thing.form
    (one,) = [t for t in things if [t.colour, t.form] == words[3:5]]
    (other,) = [t for t in things if [t.colour, t.form] == words[-2:]]
    dx, dy = one.x - other.x, one.y - other.y
    assert abs(abs(dx) - abs(dy)) > 12  # never close to a diagonal
    if abs(dx) > abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


@pytest.mark.parametrize("style", ["questions", "dialogue", "quiz"])
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


@pytest.mark.parametrize("make_rows", [question_rows, dialogue_rows, quiz_rows])
def test_answers_follow_from_the_scene(make_rows, monkeypatch):
    source, drawn = SceneSource(), {}

    def remember(rng):
        scene, png = source(rng)
        drawn[png] = scene
        return scene, png

    kinds = Counter()
    for row in make_rows(150, "train", remember, random.Random(0)):
        kinds[row["kind"]] += 1
        (image,) = row["images"]
        assert sum(message["content"].count("<image>") for message in row["messages"]) == 1
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * (len(row["messages"]) // 2)
        for question, answer in turns_of(row):
            assert answer_by_looking(drawn[image["bytes"]], question) == answer, question
    assert kinds == (dict.fromkeys(KINDS, 30) if make_rows is question_rows else {"dialogue": 150})


def test_dialogues_list_once_and_ask_every_kind():
    rows = list(dialogue_rows(40, "train", SceneSource(), random.Random(0)))
    assert all(sum(question.startswith("List") for question, _ in turns_of(row)) == 1 for row in rows)
    starts = {question.split()[0] for row in rows for question, _ in turns_of(row)}
    assert starts == {"List", "What", "Is", "How", "Where", "Which"}
    assert len({[q.startswith("List") for q, _ in turns_of(row)].index(True) for row in rows}) > 3


def test_answers_cannot_be_guessed():
    """Always giving a kind's most frequent answer is seldom right."""
    answers = defaultdict(Counter)
    for row in question_rows(3000, "train", SceneSource(), random.Random(0)):
        ((_, answer),) = turns_of(row)
        answers[row["kind"]][answer] += 1
    usual = {kind: max(found.values()) / sum(found.values()) for kind, found in answers.items()}
    assert usual["existence"] == 0.5
    assert usual["relation"] == 0.25
    assert usual["count"] < 0.32
    assert usual["colour"] < 0.2
    assert usual["read"] < 0.1


def test_pictures():
    rng = random.Random(0)
    for _ in range(20):
        scene = sample_scene(rng)
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
        "train": 2500,
        "calibration": 160,
        "validation": 300,
        "test": 1000,
    }
    assert Counter(shipped["test"]["kind"]) == dict.fromkeys(KINDS, 200)
    rng = random.Random("0/questions/train")
    fresh = question_rows(2500, "train", SceneSource(), rng)
    for row, expected in zip(shipped["train"].select(range(5)), fresh, strict=False):
        assert row["messages"] == expected["messages"]
        picture = Image.open(io.BytesIO(expected["images"][0]["bytes"]))
        assert row["images"][0].tobytes() == picture.tobytes()
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 3e6
