"""LLaVA-OneVision: LLaVA-NeXT's tiles, shrunk where they are too many; several images untiled; pooled video frames."""

from __future__ import annotations

import math

from .llava_next import LlavaNext, image_sizes, tiled_grid

NEWLINE = (1, 1, 1)
"""The newline token behind an image without tiles, and behind a video: it stands in no row, so it is a grid alone."""


class LlavaOnevision(LlavaNext):
    """``LlavaOnevisionForConditionalGeneration`` (``llava-hf/llava-onevision-qwen2-*``): SigLIP tower, Qwen2.

    An image that is alone in its sample has a thumbnail (27 x 27 tokens at 384 pixels) and tiles as in LLaVA-NeXT,
    whose grid is interpolated down to about nine tiles' tokens. Of several images in a sample (``batch_num_images``)
    each has one tile and a newline. A video has 14 x 14 tokens a frame and one newline.
    """

    model_types = ("llava_onevision",)

    def placeholders(self, config):
        return {"image": config.image_token_id, "video": config.video_token_id}

    def image_grids(self, config, inputs, modality):
        side = self.side(config, inputs)
        if modality == "video":
            return _videos(side, inputs)
        sizes = image_sizes(inputs)
        alone = _alone(inputs, side, len(sizes))
        return [
            self.tiled_image(config, side, size) if tiled else [(1, side, side), NEWLINE]
            for size, tiled in zip(sizes, alone, strict=True)
        ]

    def tiled_image(self, config, side, size):
        rows, columns = tiled_grid(config, side, size)
        # `pack_image_features` in transformers' modeling_llava_onevision.py, which has no function for it
        limit = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
        ratio = math.sqrt(rows * columns / (limit * side**2))
        if ratio > 1.1:
            rows, columns = int(rows // ratio), int(columns // ratio)
        return [(1, side, side), (1, rows, columns + 1)]


def _alone(inputs, side, count):
    """Which images are tiled: those that are alone in their sample, or all where nobody says how many there are."""
    numbers = inputs.get("batch_num_images")
    if numbers is not None:
        return [number == 1 for number in map(int, numbers) for _ in range(number)]
    encoded = (inputs.get("mm_encoder_outputs") or {}).get("image")
    if encoded is not None:  # by `generate`, which hands no numbers on; tiles are always more than a newline
        return [len(features) != side**2 + 1 for features in encoded.pooler_output]
    return [True] * count


def _videos(side, inputs):
    pooled = math.ceil(side / 2)
    pixels = inputs.get("pixel_values_videos")
    if pixels is not None:
        count, frames = pixels.shape[:2]
    else:
        count, tokens = inputs["mm_encoder_outputs"]["video"].pooler_output.shape[:2]
        frames = (tokens - 1) // pooled**2
    return [[(frames, pooled, pooled), NEWLINE]] * count
