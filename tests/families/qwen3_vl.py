"""Qwen3-VL: q/k norms, interleaved mRoPE, features of two tower layers added behind the first two decoder layers.

Each frame of a video stands by itself, with its time in front: ``[time, start, placeholders, end]``.
"""

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

from . import qwen2_vl
from .common import large, prompts, text_config, text_ids
from .qwen2_vl import END, PATCHES, ROPE, SPECIAL, START, VIDEO_PAD, block, kind_of, size_of, with_pixels
from .qwen2_vl import TWO_IMAGES as TWO_IMAGES

VIDEO = True


def toy(seed=0, **text):
    torch.manual_seed(seed)
    rope = {**ROPE, "mrope_interleaved": True, "mrope_section": [4, 2, 2]}
    fields = text_config(rope_parameters=rope, **{"head_dim": 16, **text})  # 4 x 16 is not the hidden size
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "out_hidden_size": fields["hidden_size"],
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
        **PATCHES,
    }
    return large(Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=fields, vision_config=vision, **SPECIAL)))


def toy_inputs(model, samples, padding="left", seed=0):
    generator = torch.Generator().manual_seed(seed)
    return with_pixels(prompts(samples, _block, padding, generator), samples, generator)


def _block(part, generator):
    if kind_of(part) != "video":
        return block(part, generator)
    frames, rows, columns = size_of(part)
    return [
        token for _ in range(frames) for token in (*text_ids(2, generator), START, *[VIDEO_PAD] * (rows * columns), END)
    ]


def toy_processor():
    return qwen2_vl.toy_processor(Qwen3VLProcessor)
