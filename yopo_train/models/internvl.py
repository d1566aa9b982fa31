"""InternVL 2.5, 3 and 3.5 in transformers' own layout: an image is up to twelve tiles and a thumbnail."""

from __future__ import annotations

import torch

from ..errors import UserError
from .base import Family


class InternVL(Family):
    """``InternVLForConditionalGeneration`` (``OpenGVLab/InternVL3-*-hf``): Qwen2, Qwen3 or Llama language models.

    Every tile of 448 x 448 pixels is a grid of its own of 16 x 16 tokens, the thumbnail, which comes last, too: the
    model is not told how the tiles lie. Frames of a video are tiles.
    """

    model_types = ("internvl",)

    def image_grids(self, config, inputs, modality):
        side, pixels = self._side(config), inputs.get("pixel_values")
        if pixels is None:
            return [[(1, side, side)]] * len(inputs["mm_encoder_outputs"]["image"].pooler_output)
        size = tuple(config.vision_config.image_size)
        if tuple(pixels.shape[-2:]) != size:
            found = " x ".join(map(str, pixels.shape[-2:]))
            raise UserError(f"a tile of pixel_values has {found} pixels, expected {' x '.join(map(str, size))}")
        return [[(1, side, side)]] * len(pixels)

    def unread_vision_layers(self, core, arguments):
        layers, read = core.vision_tower.encoder.layer, arguments.get("vision_feature_layer")
        read = core.config.vision_feature_layer if read is None else read
        # hidden state i is what layer i reads; there is one more than layers
        return list(layers[read % (len(layers) + 1) :])

    def typical_tokens(self, config):
        return 13 * self._side(config) ** 2  # a 4 : 3 photo of any size: 4 x 3 tiles and the thumbnail

    def shape_image(self, config, visual_tokens):
        side = self._side(config)
        tiles, rest = divmod(visual_tokens, side**2)
        if tiles < 1 or rest:
            raise UserError(
                f"--visual-tokens is {visual_tokens}, expected a multiple of {side**2} ({side} x {side} a tile)"
            )
        return [(1, side, side)] * tiles

    def random_images(self, config, ids, grids):
        return {"pixel_values": torch.randn(len(ids) * len(grids), 3, *config.vision_config.image_size)}

    def _side(self, config) -> int:
        """Tokens along the edge of a tile.

        Raises
        ------
        UserError
            The tower's tokens fill no square grid.
        """
        vision = config.vision_config
        rows, columns = (size // patch for size, patch in zip(vision.image_size, vision.patch_size, strict=True))
        if config.vision_feature_select_strategy != "default" or rows != columns:
            raise UserError(
                f"the vision tower gives {rows} x {columns} patches with vision_feature_select_strategy "
                f"{config.vision_feature_select_strategy!r}, expected a square and 'default' (without the class token)"
            )
        return int(rows * config.downsample_ratio)
