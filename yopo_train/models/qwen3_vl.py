"""Qwen3-VL (dense): a Qwen3 language model with interleaved mRoPE, whose first layers get features of the tower again.

Those features (DeepStack, arXiv 2406.04334) are added to visual hidden states behind the first decoder layers. The
engine adds them wherever visual tokens still exist.
"""

from __future__ import annotations

from .qwen2_vl import Qwen2VL


class Qwen3VL(Qwen2VL):
    """``Qwen3VLForConditionalGeneration``: each frame of a video is a block of its own in the prompt."""

    model_types = ("qwen3_vl",)
    text_types = ("qwen3_vl_text",)

    def image_grids(self, config, inputs, modality):
        videos = super().image_grids(config, inputs, modality)
        return [[(1, rows, columns)] * frames for ((frames, rows, columns),) in videos]
