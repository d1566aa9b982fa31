"""LLaVA-NeXT (1.6): an image is a thumbnail and a high-resolution grid of tiles, whose rows end in a newline token."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..errors import UserError
from .base import Family, Grid
from .llava import Llava


class LlavaNext(Llava):
    """``LlavaNextForConditionalGeneration`` (``llava-hf/llava-v1.6-*``, ``llava-hf/llama3-llava-next-8b-hf``).

    The thumbnail, 24 x 24 tokens at 336 pixels, comes first and is a grid of its own. The tiles behind it are laid side
    by side into one grid, less the rows or columns that padding alone would fill. Each of its rows ends in the newline
    token, a visual feature like the others: here it is the last column, so that a window sees the newlines of its own
    and the neighboring rows where it reaches the right border.
    """

    model_types = ("llava_next",)
    described_by = {"image": ("image_sizes",)}  # noqa: RUF012
    grids = Family.grids  # images differ in size

    def image_grids(self, config, inputs, modality):
        side = self.side(config, inputs)
        return [self.tiled_image(config, side, size) for size in image_sizes(inputs)]

    def tiled_image(self, config: Any, side: int, size: list[int]) -> list[Grid]:
        """Thumbnail and tiles of an image of ``size`` (height, width) pixels; a tile has ``side`` x ``side`` tokens."""
        rows, columns = tiled_grid(config, side, size)
        return [(1, side, side), (1, rows, columns + 1)]

    def typical_tokens(self, config):
        return _square_tokens(config.vision_config.image_size // config.vision_config.patch_size)

    def shape_image(self, config, visual_tokens):
        """A square image of 2 x 2 tiles."""
        side = max(math.isqrt(max(visual_tokens, 0) // 5), 1)
        if _square_tokens(side) != visual_tokens:
            raise UserError(
                f"--visual-tokens is {visual_tokens}, expected a thumbnail and 2 x 2 tiles with newlines, such as "
                f"{_square_tokens(side)} of {side} x {side} each, or the model's own {self.typical_tokens(config)}"
            )
        vision = config.vision_config
        if vision.image_size // vision.patch_size != side:
            vision.image_size = side * vision.patch_size
        config.image_grid_pinpoints = [[2 * vision.image_size] * 2]
        return self.tiled_image(config, side, config.image_grid_pinpoints[0])

    def random_images(self, config, ids, grids):
        tile = config.vision_config.image_size
        sizes = torch.full((len(ids), 2), 2 * tile)
        return {"pixel_values": torch.randn(len(ids), 5, 3, tile, tile), "image_sizes": sizes}


def _square_tokens(side: int) -> int:
    """Tokens of a thumbnail and of 2 x 2 tiles: side^2 + 2 side (2 side + 1)."""
    return 5 * side**2 + 2 * side


def image_sizes(inputs: Any) -> list[list[int]]:
    """Height and width of each image of the batch in pixels."""
    sizes = inputs.get("image_sizes")
    if sizes is None:
        raise UserError("image_sizes is missing, expected a row of height and width for each image")
    return sizes.tolist()


def tiled_grid(config: Any, side: int, size: list[int]) -> tuple[int, int]:
    """Rows and columns of tokens that an image's tiles give, by the model's own functions for both steps.

    Parameters
    ----------
    side : int
        Tokens along the edge of a tile.
    size : list of int
        Height and width of the image in pixels.
    """
    # here, because transformers' modelling files take long to import
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, unpad_image

    tile = config.vision_config.image_size
    tile_rows, tile_columns = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, tile)
    tokens = torch.empty(0, tile_rows * side, tile_columns * side)
    rows, columns = unpad_image(tokens, size).shape[1:]
    return rows, columns
