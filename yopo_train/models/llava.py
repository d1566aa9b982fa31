"""LLaVA-1.5: CLIP tower, two-layer projector, Llama language model; a fixed square grid for every image."""

from __future__ import annotations

from ..errors import UserError
from .base import Family, fixed_grid


class Llava(Family):
    """``LlavaForConditionalGeneration`` (``llava-hf/llava-1.5-*``): 24 x 24 visual tokens an image at 336 pixels."""

    model_types = ("llava",)

    def grids(self, config, counts, inputs):
        if config.vision_feature_select_strategy != "default":
            raise UserError(
                f"config.vision_feature_select_strategy is {config.vision_feature_select_strategy!r}, expected "
                "'default': a class token has no place on the grid"
            )
        side = config.vision_config.image_size // config.vision_config.patch_size
        return fixed_grid(counts, (1, side, side), f"{side} x {side} per image")
