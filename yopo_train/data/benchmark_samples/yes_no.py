"""Samples of POPE and MME: questions to be answered by yes or no."""

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from yopo_train.data.benchmark_samples.scenes import (
    SHORT_ANSWER,
    absent_colours,
    absent_words,
    colours,
    has,
    new_scene,
    save,
    thing_of,
    write_json_lines,
)
from yopo_train.data.shapes import Scene, Thing
from yopo_train.data.shapes.scene import COLOURS

_LLAVA_ORDER = ("adversarial", "random", "popular")
_IMAGES = 3
ENDING = " Please answer yes or no."

Pair = tuple[str, str]
"""A question to be answered by yes, and one to be answered by no."""


def pope(folder: Path, rng: random.Random) -> None:
    """``coco/coco_pope_<category>.json``, ``val2014/`` and LLaVA's file: 6 questions a category, about 3 pictures.

    What is asked for in vain is drawn at random, is what most other pictures have (popular), or has the form of
    something that is there in another colour (adversarial).
    """
    scenes = [new_scene(rng, lambda scene: len(absent_words(scene)) > 2) for _ in range(_IMAGES)]
    common = Counter(thing.word for scene in scenes for thing in scene.things)
    names = [f"COCO_val2014_{8001 + i:012d}.jpg" for i in range(_IMAGES)]
    rows: dict[str, list[dict]] = {category: [] for category in _LLAVA_ORDER}
    for scene, name in zip(scenes, names, strict=True):
        save(scene, folder / "val2014" / name)
        there = rng.choice(scene.things).word
        absent = {
            "random": rng.choice(absent_words(scene)),
            "popular": max(absent_words(scene), key=lambda word: (common[word], word)),
            "adversarial": f"{rng.choice(absent_colours(scene))} {rng.choice(scene.things).word}",
        }
        for category, asked in rows.items():
            for words, label in ((there, "yes"), (absent[category], "no")):
                text = f"Is there {_article(words)} {words} in the image?"
                asked.append({"question_id": len(asked) + 1, "image": name, "text": text, "label": label})
    for category, asked in rows.items():
        write_json_lines(folder / "coco" / f"coco_pope_{category}.json", asked)
    write_json_lines(
        folder / "llava_pope_test.jsonl",
        (
            {
                "question_id": 10_000_000 * place + row["question_id"],
                "image": row["image"],
                "text": f"{row['text']}\n{SHORT_ANSWER}",
                "category": category,
            }
            for place, category in enumerate(_LLAVA_ORDER)
            for row in rows[category]
        ),
    )


def mme(folder: Path, rng: random.Random) -> None:
    """A picture and two questions in each of 9 categories; two have folders of their own for images and questions."""
    for number, (category, (words, ask)) in enumerate(_MME.items()):
        scene = new_scene(rng, lambda scene, words=words: has(*words)(scene) and len(colours(scene)) > 1)
        apart = category in ("scene", "artwork")
        name = f"{number + 1:04d}"
        suffix = ".png" if category in ("numerical_calculation", "commonsense_reasoning") else ".jpg"
        place = folder / category
        save(scene, (place / "images" if apart else place) / f"{name}{suffix}")
        texts = place / "questions_answers_YN" if apart else place
        texts.mkdir(exist_ok=True)
        space = " " if category == "artwork" else ""  # as in seven of the real questions
        lines = [f"{text}{space}{ENDING}\t{label}\n" for text, label in zip(ask(scene), ("Yes", "No"), strict=True)]
        (texts / f"{name}.txt").write_text("".join(lines))


def _article(words: str) -> str:
    return "an" if words[0] in "aeiou" else "a"


def _other(colour: str) -> str:
    names = list(COLOURS)
    return names[(names.index(colour) + 1) % len(names)]


def _existence(scene: Scene) -> Pair:
    there, absent = scene.things[0].word, absent_words(scene)[0]
    return f"Is there a {there} in this image?", f"Is there a {absent} in this image?"


def _count(scene: Scene) -> Pair:
    colour = colours(scene)[0]
    number = sum(thing.colour == colour for thing in scene.things)
    ask = "Is the number of {} objects in this image {}?"
    return ask.format(colour, number), ask.format(colour, number + 1)


def _position(scene: Scene) -> Pair:
    one, other = _apart(scene)
    ask = "Is the {} on the left of the {}?"
    return ask.format(one.word, other.word), ask.format(other.word, one.word)


def _colour(scene: Scene) -> Pair:
    thing = scene.things[0]
    ask = f"Is the {thing.word} {{}}?"
    return ask.format(thing.colour), ask.format(_other(thing.colour))


def _read(scene: Scene) -> Pair:
    form = thing_of(scene, "letter").form
    ask = 'Is the letter in the image "{}"?'
    return ask.format(form), ask.format("H" if form != "H" else "T")


def _scene(scene: Scene) -> Pair:
    number = len(scene.things)
    ask = "Does this image show {} objects?"
    return ask.format(number), ask.format(number + 2)


def _artwork(scene: Scene) -> Pair:
    ask = "Does this image have a {} object in it?"
    return ask.format(scene.things[-1].colour), ask.format(absent_colours(scene)[0])


def _calculation(scene: Scene) -> Pair:
    digit = int(thing_of(scene, "digit").form)
    ask = "Is the digit in the image plus one {}?"
    return ask.format(digit + 1), ask.format(digit + 3)


def _commonsense(scene: Scene) -> Pair:
    ask = "The digit in the image is the number of things that I have. Do I have {} things?"
    digit = int(thing_of(scene, "digit").form)
    return ask.format(digit), ask.format(digit + 1)


def _apart(scene: Scene) -> tuple[Thing, Thing]:
    """The leftmost and the rightmost thing."""
    return min(scene.things, key=lambda thing: thing.column), max(scene.things, key=lambda thing: thing.column)


_MME: dict[str, tuple[tuple[str, ...], Callable[[Scene], Pair]]] = {
    "existence": ((), _existence),
    "count": ((), _count),
    "position": ((), _position),
    "color": ((), _colour),
    "OCR": (("letter",), _read),
    "scene": ((), _scene),
    "artwork": ((), _artwork),
    "numerical_calculation": (("digit",), _calculation),
    "commonsense_reasoning": (("digit",), _commonsense),
}
"""Category -> what its picture must show, and its two questions."""
