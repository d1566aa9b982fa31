"""Qwen2-VL and Qwen2.5-VL: images of any size and videos; a Qwen2 language model with mRoPE."""

from __future__ import annotations

import math

import torch

from ..errors import UserError
from .base import Family

SIZES = {"image": "image_grid_thw", "video": "video_grid_thw"}
"""Inputs with a row (frames, rows, columns of patches) for each image, and for each video."""
TYPES = {"image": 1, "video": 2}
"""What ``mm_token_type_ids`` calls visual tokens."""


class Qwen2VL(Family):
    """``Qwen2VLForConditionalGeneration``, ``Qwen2_5_VLForConditionalGeneration``.

    A visual token is 2 x 2 patches of 14 pixels, and of two video frames. All frames of a video stand in one block.
    """

    model_types = ("qwen2_vl", "qwen2_5_vl")
    text_types = ("qwen2_vl_text", "qwen2_5_vl_text")
    described_by = {modality: (name,) for modality, name in SIZES.items()}  # noqa: RUF012

    def vision_tower(self, core):
        return core.visual

    def projectors(self, core):
        return [core.visual.merger, *getattr(core.visual, "deepstack_merger_list", [])]  # the list is Qwen3-VL's

    def placeholders(self, config):
        return {"image": config.image_token_id, "video": config.video_token_id}

    def grids(self, config, visual, inputs):
        """Of images in one piece: of another one mRoPE's positions would not be known."""
        found = super().grids(config, visual, inputs)
        for sample, (mask, grids) in enumerate(zip(visual, found, strict=True)):
            places, start = mask.nonzero().flatten().tolist(), 0
            for size in map(math.prod, grids):
                first, last = places[start], places[start + size - 1]
                if last - first != size - 1:
                    raise UserError(
                        f"other tokens stand among the {size} visual tokens of an image of sample {sample}, which "
                        f"begin at token {first}: expected them in one piece"
                    )
                start += size
        return found

    def image_grids(self, config, inputs, modality):
        sizes, merge = inputs.get(SIZES[modality]), config.vision_config.spatial_merge_size
        if sizes is None:
            raise UserError(
                f"{SIZES[modality]} is missing, expected a row of frames, rows and columns for each {modality}"
            )
        return [[(frames, rows // merge, columns // merge)] for frames, rows, columns in sizes.tolist()]

    def shape_image(self, config, visual_tokens):
        rows = next((n for n in range(math.isqrt(max(visual_tokens, 0)), 0, -1) if visual_tokens % n == 0), 0)
        if rows == 0:
            raise UserError(f"--visual-tokens is {visual_tokens}, expected a positive number")
        return [(1, rows, visual_tokens // rows)]

    def random_images(self, config, ids, grids):
        vision, batch = config.vision_config, len(ids)
        ((frames, rows, columns),) = grids
        size = torch.tensor([[frames, rows * vision.spatial_merge_size, columns * vision.spatial_merge_size]])
        values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        return {
            "pixel_values": torch.randn(batch * int(size.prod()), values),
            "image_grid_thw": size.expand(batch, -1).contiguous(),
            "mm_token_type_ids": TYPES["image"] * (ids == config.image_token_id).int(),
        }
