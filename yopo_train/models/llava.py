"""LLaVA-1.5: CLIP tower, two-layer projector, Llama language model; a fixed square grid for every image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import UserError
from .base import Family, fixed_grid

CLASS_TOKEN = {"clip_vision_model": True, "siglip_vision_model": False}
"""Vision towers, and whether a class token stands in front of their patches."""


class Llava(Family):
    """``LlavaForConditionalGeneration`` (``llava-hf/llava-1.5-*``): 24 x 24 visual tokens an image at 336 pixels."""

    model_types = ("llava",)

    def grids(self, config, visual, inputs):
        side = self.side(config, inputs)
        return fixed_grid(visual, (1, side, side), f"{side} x {side} per image")

    def side(self, config: Any, inputs: Mapping[str, Any]) -> int:
        """Tokens along the edge of what the vision tower reads.

        Raises
        ------
        UserError
            The tower's tokens fill no grid, or none that is known.
        """
        tower = config.vision_config.model_type
        if tower not in CLASS_TOKEN:
            raise UserError(f"vision tower {tower!r} has no known grid, expected one of: {', '.join(CLASS_TOKEN)}")
        strategy = inputs.get("vision_feature_select_strategy") or config.vision_feature_select_strategy
        expected = "default" if CLASS_TOKEN[tower] else "full"
        if strategy != expected:
            reason = (
                "its class token has no place on the grid"
                if CLASS_TOKEN[tower]
                else "it has no class token, and the first patch would be dropped in place of it"
            )
            raise UserError(
                f"vision_feature_select_strategy is {strategy!r}, expected {expected!r} with a {tower}: {reason}"
            )
        return config.vision_config.image_size // config.vision_config.patch_size

    def unread_vision_layers(self, core, arguments):
        count = core.config.vision_config.num_hidden_layers
        read = arguments.get("vision_feature_layer")
        read = core.config.vision_feature_layer if read is None else read
        # hidden state i is what layer i reads; there is one more than layers
        last = max(index % (count + 1) for index in ([read] if isinstance(read, int) else read))
        tower = getattr(core.vision_tower, "vision_model", core.vision_tower)
        return list(tower.encoder.layers[last:]) if hasattr(tower, "encoder") else []

    def shape_image(self, config, visual_tokens):
        side = math.isqrt(max(visual_tokens, 0))
        if side == 0 or side * side != visual_tokens:
            raise UserError(f"--visual-tokens is {visual_tokens}, expected a square number (576 is a grid of 24 x 24)")
        config.vision_config.image_size = side * config.vision_config.patch_size
        return [(1, side, side)]

    def random_images(self, config, ids, grids):
        size = config.vision_config.image_size
        return {"pixel_values": torch.randn(len(ids), 3, size, size)}
