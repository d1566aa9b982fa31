"""Opening a row's images, and the size that they are given."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image as PILImage

from ..errors import UserError
from .formats import Image


@dataclass
class ImageSizing:
    """What happens to the size of an image before the model's processor sees it.

    `data.letterbox`: a border makes it a square, as LLaVA-1.5 has it where the processor would cut the sides off.

    `data.max_pixels`: a larger image is made smaller, its aspect kept. Processors that resize by a number of pixels
    themselves (Qwen-VL's) round both sides to a multiple of their merged patch. The size is then the very one that they
    would choose by a ``max_pixels`` of their own, so that they leave the image as it is.

    Parameters
    ----------
    max_pixels
        The most that an image may have; None is no bound.
    letterbox
        Whether images get that border.
    multiple
        What both sides are rounded to, in pixels.
    own
        The processor's own bound in pixels; where it is the lower one, only it acts.
    border
        The border's colour, known with the processor.
    """

    max_pixels: int | None = None
    letterbox: bool = False
    multiple: int = 1
    own: int | None = None
    border: tuple[int, ...] | None = None

    def fit_to(self, processor: Any) -> None:
        """Round as this processor does, with its colour.

        Raises
        ------
        UserError
            A border is wanted, but the processor cuts nothing off.
        """
        images = processor.image_processor
        if (merge := getattr(images, "merge_size", None)) is not None:
            self.multiple = images.patch_size * merge
            size = images.size
            self.own = size.get("longest_edge") if isinstance(size, dict) else getattr(size, "longest_edge", None)
        if self.letterbox:
            self.border = border_of(images)
            if self.border is None:
                name = type(images).__name__
                raise UserError(f"data.letterbox is true, but {name} cuts nothing off an image: expected false")

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that an image is given."""
        if self.border is not None:
            width = height = max(width, height)
        if self.max_pixels is None or (self.own is not None and self.own <= self.max_pixels):
            return width, height
        rounded = [max(self.multiple, round(side / self.multiple) * self.multiple) for side in (width, height)]
        if math.prod(rounded) <= self.max_pixels:
            return width, height
        # transformers' smart_resize, from Qwen2-VL
        beta = math.sqrt(width * height / self.max_pixels)
        sides = (math.floor(side / beta / self.multiple) * self.multiple for side in (width, height))
        width, height = (max(self.multiple, side) for side in sides)
        return width, height

    def __call__(self, image: PILImage.Image) -> PILImage.Image:
        size = self.size(*image.size)
        if self.border is None:
            return image if size == image.size else image.resize(size, PILImage.Resampling.BICUBIC)
        if (scale := size[0] / max(image.size)) < 1:  # before the border, which may be most of the square
            inner = [max(1, round(side * scale)) for side in image.size]
            image = image.resize(inner, PILImage.Resampling.BICUBIC)
        return letterboxed(image, self.border)


def border_of(image_processor: Any) -> tuple[int, ...] | None:
    """The border's colour, the processor's mean; None where it does not cut, makes the border itself, or tiles."""
    cuts = getattr(image_processor, "do_center_crop", False)
    if not cuts or getattr(image_processor, "do_pad", False) or getattr(image_processor, "image_grid_pinpoints", None):
        return None
    return tuple(int(value * 255) for value in image_processor.image_mean)


def letterboxed(image: PILImage.Image, border: tuple[int, ...]) -> PILImage.Image:
    """An image in the middle of a square of one colour: `expand2square` of LLaVA's ``mm_utils.py``."""
    side = max(image.size)
    square = PILImage.new("RGB", (side, side), border)
    square.paste(image, tuple((side - length) // 2 for length in image.size))
    return square


def image_file(name: str, folder: Path) -> Path:
    """Where an image lies that a row names by its path, relative to the folder of the set."""
    return Path(name) if Path(name).is_absolute() else folder / name


def name_of(image: Image) -> str:
    """What messages call an image."""
    return "image" if isinstance(image, dict) else image


def read_size(image: Image, folder: Path) -> tuple[int, int]:
    """Width and height, from the header alone."""
    place = io.BytesIO(image["bytes"]) if isinstance(image, dict) else image_file(image, folder)
    with PILImage.open(place) as opened:
        return opened.size


def decode(image: Image, folder: Path) -> PILImage.Image:
    """The whole image, in RGB."""
    data = image["bytes"] if isinstance(image, dict) else image_file(image, folder).read_bytes()
    return PILImage.open(io.BytesIO(data)).convert("RGB")
