"""Scenes to ask about, and the files that they and their questions are written to."""

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from yopo_train.data.shapes import Scene, Thing, draw, sample_scene
from yopo_train.data.shapes.questions import WORDS
from yopo_train.data.shapes.scene import COLOURS

SHORT_ANSWER = "Answer the question using a single word or phrase."
"""How LLaVA's question files end a prompt."""


def new_scene(rng: random.Random, fits: Callable[[Scene], bool] = lambda scene: True) -> Scene:
    """A random scene of which `fits` holds."""
    while True:
        scene = sample_scene(rng)
        if fits(scene):
            return scene


def thing_of(scene: Scene, word: str) -> Thing | None:
    """The one thing that a word ("circle", "digit") means, or None."""
    return next((thing for thing in scene.things if thing.word == word), None)


def has(*words: str) -> Callable[[Scene], bool]:
    """Whether a scene has something of each word."""
    return lambda scene: all(thing_of(scene, word) is not None for word in words)


def colours(scene: Scene) -> list[str]:
    """The colours of a scene's things, each once."""
    return list(dict.fromkeys(thing.colour for thing in scene.things))


def absent_words(scene: Scene) -> list[str]:
    """What is not in the scene."""
    return [word for word in WORDS if thing_of(scene, word) is None]


def absent_colours(scene: Scene) -> list[str]:
    """Colours that nothing has."""
    return [colour for colour in COLOURS if colour not in colours(scene)]


def save(scene: Scene, path: Path) -> None:
    """The scene's picture, in the format of the file's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"optimize": True} if path.suffix == ".png" else {"quality": 90, "subsampling": 0}
    draw(scene).save(path, **options)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def write_json_lines(path: Path, rows: Iterable[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
