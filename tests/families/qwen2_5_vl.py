"""Qwen2.5-VL: Qwen2-VL's language model and prompt; window attention in the tower, seconds between video frames."""

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from . import qwen2_vl
from .common import large, text_config
from .qwen2_vl import PATCH, PATCHES, ROPE, SPECIAL
from .qwen2_vl import TWO_IMAGES as TWO_IMAGES
from .qwen2_vl import toy_inputs as toy_inputs

VIDEO = True


def toy(seed=0, **text):
    torch.manual_seed(seed)
    fields = text_config(rope_parameters=ROPE, **text)
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "out_hidden_size": fields["hidden_size"],
        "window_size": 4 * PATCH,
        "fullatt_block_indexes": [1],
        **PATCHES,
    }
    return large(
        Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=fields, vision_config=vision, **SPECIAL))
    )


def toy_processor():
    return qwen2_vl.toy_processor(Qwen2_5_VLProcessor)
