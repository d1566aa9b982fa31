"""Samples of ScienceQA and MMBench: multiple choice."""

import base64
import csv
import random
from collections.abc import Iterator
from pathlib import Path

from yopo_train.data.benchmark_samples.scenes import absent_colours, absent_words, has, new_scene, save, write_json
from yopo_train.data.shapes import Scene, draw
from yopo_train.data.shapes.glyphs import DIGITS
from yopo_train.data.shapes.scene import SHAPES, png_bytes

LETTERS = "ABCD"
CIRCLE = 1_000_000
_COLUMNS = ("index", "question", "hint", *LETTERS, "answer", "category", "image", "source", "l2-category", "comment",
            "split")  # fmt: skip
_WITH_IMAGE, _IN_VALIDATION = 8, 2
_TEXT_ONLY = (
    ("Which of these is a shape?", ["red", "circle"], 1, "Shapes have sides or a curve."),
    ("Which number comes after 4?", ["5", "3", "7"], 0, ""),
    ("Which colour is made of red and yellow?", ["green", "purple", "orange", "blue"], 2, "Colours can be mixed."),
)


def scienceqa(folder: Path, rng: random.Random) -> None:
    """``problems.json``, ``pid_splits.json`` and ``images/``: 11 test questions, 3 of them without a picture."""
    problems: dict[str, dict] = {}
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for i in range(_WITH_IMAGE + _IN_VALIDATION):
        split, name = ("test" if i < _WITH_IMAGE else "val"), str(len(problems) + 1)
        scene = _scene(rng)
        save(scene, folder / "images" / split / name / "image.png")
        question, options, answer = _choice(scene, i, 2 + i % 3, rng)
        problems[name] = _problem(
            question, options, answer, "Look at the picture." if i % 2 else "", split, "image.png"
        )
        splits[split].append(name)
        if i % 3 == 2:
            text, choices, right, hint = _TEXT_ONLY[i // 3]
            name = str(len(problems) + 1)
            problems[name] = _problem(text, choices, right, hint, "test", None)
            splits["test"].append(name)
    write_json(folder / "problems.json", problems)
    write_json(folder / "pid_splits.json", splits)


def mmbench(folder: Path, rng: random.Random) -> None:
    """``mmbench_dev_20230712.tsv``: 5 questions in 2, 3 or 4 rotations each, 16 rows; and 3 rows of test, no answers.

    One question of four options has three rotations, as its last option stays where it is.
    """
    rows = []
    for number, (options, rotations) in enumerate(((2, 2), (3, 3), (4, 4), (4, 3), (4, 4))):
        scene = _scene(rng)
        question, texts, answer = _choice(scene, number, options, rng)
        if rotations < options:
            texts[-1] = "None of these" if answer != options - 1 else texts[-1]
        hint = 'The word "object" means a shape,\na digit or a letter.' if number == 2 else ""
        rows += _rotations(number, question, hint, texts, answer, rotations, scene)
    _write_tsv(folder / "mmbench_dev_20230712.tsv", rows, _COLUMNS)
    hidden = []
    for number in range(3):
        scene = _scene(rng)
        question, texts, answer = _choice(scene, number, 4, rng)
        row = next(_rotations(102 + number, question, "", texts, answer, 1, scene))
        hidden.append(row | {"split": "test"})
    _write_tsv(folder / "mmbench_test_20230712.tsv", hidden, [name for name in _COLUMNS if name != "answer"])


def _scene(rng: random.Random) -> Scene:
    """A scene that all kinds of questions can be asked about, with three wrong options each."""
    return new_scene(rng, lambda scene: has("digit")(scene) and len(_absent_shapes(scene)) > 2)


def _absent_shapes(scene: Scene) -> list[str]:
    return [word for word in absent_words(scene) if word in SHAPES]


def _choice(scene: Scene, number: int, options: int, rng: random.Random) -> tuple[str, list[str], int]:
    """A question of one of three kinds, with its options and the place of the right one."""
    thing = next(thing for thing in scene.things if thing.word != "digit")
    digit = next(thing.form for thing in scene.things if thing.word == "digit")
    question, right, wrong = (
        (f"What colour is the {thing.word}?", thing.colour, absent_colours(scene)),
        ("Which digit is shown?", digit, [each for each in DIGITS if each != digit]),
        ("Which shape is shown?", next(t.form for t in scene.things if t.form in SHAPES),
         _absent_shapes(scene)),
    )[number % 3]  # fmt: skip
    texts = rng.sample([right, *rng.sample(wrong, options - 1)], options)
    return question, texts, texts.index(right)


def _problem(question: str, choices: list[str], answer: int, hint: str, split: str, image: str | None) -> dict:
    return {
        "question": question,
        "choices": choices,
        "answer": answer,
        "hint": hint,
        "image": image,
        "task": "closed choice",
        "grade": "grade2",
        "subject": "natural science",
        "topic": "shapes",
        "category": "Shapes and colours",
        "skill": "Recognise shapes",
        "lecture": "",
        "solution": "",
        "split": split,
    }


def _rotations(
    number: int, question: str, hint: str, texts: list[str], answer: int, rotations: int, scene: Scene
) -> Iterator[dict]:
    """The question's row, and those with its options moved up by one, two and three."""
    turning = texts[:rotations] if rotations < len(texts) and rotations > 1 else texts
    fixed = texts[len(turning) :]
    picture = base64.b64encode(png_bytes(draw(scene))).decode()
    category, level = (
        ("attribute_recognition", "finegrained_perception (instance-level)"),
        ("ocr", "finegrained_perception (instance-level)"),
        ("image_topic", "coarse_perception"),
    )[number % 3]
    for turn in range(rotations):
        moved = turning[turn:] + turning[:turn] + fixed
        yield {
            "index": turn * CIRCLE + 241 + number,
            "question": question,
            "hint": hint,
            **dict(zip(LETTERS, moved, strict=False)),
            "answer": LETTERS[moved.index(texts[answer])],
            "category": category,
            "image": picture,
            "source": "shapes",
            "l2-category": level,
            "comment": "",
            "split": "dev",
        }


def _write_tsv(path: Path, rows: list[dict], columns: list[str] | tuple[str, ...]) -> None:
    """Rows in the order of their index, as in the real file's rotations."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, dialect="excel-tab", lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: row["index"]))
