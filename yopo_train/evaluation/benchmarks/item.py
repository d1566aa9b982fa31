"""What every benchmark gives: items to ask, and how to generate their answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from .pictures import Picture

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""The system text of LLaVA's conversation `vicuna_v1`."""

SHORT_ANSWER = "Answer the question using a single word or phrase."
LETTER_ANSWER = "Answer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class GenerationSettings:
    """How a protocol lets a model answer; always greedily, with one beam.

    Attributes
    ----------
    max_new_tokens : int
        Longest answer.
    system : str, optional
        What the prompt begins with. LLaVA's scripts put `VICUNA_SYSTEM` there for models that talk as `vicuna_v1`;
        lmms-eval's `llava_hf` takes the processor's template, which has none. A model of another family has a
        conversation format of its own: leave it out there.
    letterbox : bool
        Whether images get a border that makes them square. LLaVA-1.5's configuration has it
        (``image_aspect_ratio: pad``); the processor of `llava_hf` cuts off what is not in the square's middle.
    """

    max_new_tokens: int
    system: str | None = None
    letterbox: bool = False


@dataclass(frozen=True, slots=True)
class Item:
    """One question. Its images are opened only when they are asked for: 200 000 items are cheap to hold.

    Attributes
    ----------
    id : str
        Unique in the benchmark.
    prompt : str
        The user's text behind the images, as the protocol has it.
    reference : Mapping
        What the metric needs, JSON values only; ``answer`` or ``answers`` is None where there is no public answer.
    pictures : tuple of Picture
        Where the images lie.
    """

    id: str
    prompt: str
    reference: Mapping[str, Any]
    pictures: tuple[Picture, ...] = ()

    @property
    def has_image(self) -> bool:
        """Whether the prompt holds an image."""
        return bool(self.pictures)

    def images(self) -> list[Image.Image]:
        """The images in RGB, decoded now.

        Raises
        ------
        UserError
            One of them cannot be read.
        """
        return [picture.open() for picture in self.pictures]

    def image_sizes(self) -> list[tuple[int, int]]:
        """Width and height of each image, from the headers alone.

        Raises
        ------
        UserError
            One of them cannot be read.
        """
        return [picture.size() for picture in self.pictures]
