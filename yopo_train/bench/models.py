"""What bench runs on: named models with random weights, random inputs, and plans of the right size.

Time depends neither on the weights nor on which heads and channels stay, only on how many.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, CLIPVisionConfig, LlamaConfig, LlavaConfig
from transformers import PretrainedConfig as Config

from ..calibration import PlanConfig, make_plan
from ..cost import Grid
from ..errors import UserError
from ..models import family_of
from ..models.loading import DTYPES
from ..plan import ModelDims, PruningPlan
from .device import free_bytes

RANDOM_DTYPES = tuple(name for name in DTYPES if name != "auto")


def _llava(**text: int) -> Config:
    """LLaVA-1.5: the CLIP tower of 336 pixels and a Llama."""
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=336,
            patch_size=14,
        ),
        text_config=LlamaConfig(vocab_size=32064, max_position_embeddings=4096, **text),
        image_token_index=32000,
    )


NAMED: dict[str, Callable[[], Config]] = {
    "llava-1.5-7b": _llava,
    "llava-1.5-13b": partial(
        _llava, hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40
    ),
}
"""Configurations by the name that ``--model`` takes; a new one is one entry here."""


def model_config(name: str) -> Config:
    """The configuration of a named model, a local folder or a Hub id.

    Raises
    ------
    UserError
        There is none of that name, or its family is not supported.
    """
    if name in NAMED:
        return NAMED[name]()
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(f"--model is {name!r}, expected one of {', '.join(NAMED)}, a folder or a Hub id") from error
    family_of(config)
    return config


def shape_config(config: Config, layers: int | None, visual_tokens: int) -> Grid:
    """Cut the language model down and size the image, in place; gives the image's grid.

    Parameters
    ----------
    layers
        Keep only so many layers of the language model; None keeps all.
    visual_tokens
        Tokens of one image, a square number.

    Raises
    ------
    UserError
        Layers that the model does not have, or visual tokens that fill no square.
    """
    side = math.isqrt(max(visual_tokens, 0))
    if side == 0 or side * side != visual_tokens:
        raise UserError(f"--visual-tokens is {visual_tokens}, expected a square number (576 is a grid of 24 x 24)")
    config.vision_config.image_size = side * config.vision_config.patch_size
    most = config.text_config.num_hidden_layers
    if layers is not None and not 1 <= layers <= most:
        raise UserError(f"--layers is {layers}, expected 1 to {most}")
    config.text_config.num_hidden_layers = layers or most
    return 1, side, side


def check_memory(config: Config, dtype: str, device: torch.device) -> None:
    """Refuse a model that does not fit: on a CPU the system would end the process, or another one, without a word.

    Raises
    ------
    UserError
        The weights alone need more than is free.
    """
    model = random_model(config, dtype, torch.device("meta"))
    need, free = sum(x.nbytes for x in model.parameters()), free_bytes(device)
    if free is not None and need > free:
        raise UserError(
            f"the weights in {dtype} need {need / 2**30:.1f} GiB, but {device} has only {free / 2**30:.1f} GiB free: "
            "try fewer --layers or --dtype bfloat16"
        )


def random_model(config: Config, dtype: str, device: torch.device) -> nn.Module:
    """A model with random weights, in eval mode; its attention is SDPA, the fastest that the stock model has."""
    torch.manual_seed(0)
    with device:
        model = AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    return model.eval()


def random_inputs(model: nn.Module, visual_tokens: int, text_tokens: int, batch: int) -> dict[str, Tensor]:
    """Text, image, text: a quarter of the text in front, as LLaVA's system prompt is."""
    parameter, config = next(model.parameters()), model.config
    image_token = family_of(model).image_token_id(config)
    before = text_tokens // 4
    ids = torch.randint(config.text_config.vocab_size, (batch, visual_tokens + text_tokens))
    ids[ids == image_token] = (image_token + 1) % config.text_config.vocab_size
    ids[:, before : before + visual_tokens] = image_token
    size = config.vision_config.image_size
    pixels = torch.randn(batch, 3, size, size, dtype=parameter.dtype)
    return {name: x.to(parameter.device) for name, x in (("input_ids", ids), ("pixel_values", pixels))}


def random_plan(dims: ModelDims, config: PlanConfig, grid: Grid) -> PruningPlan:
    """A plan for a budget that keeps random heads and channels: of the right size, of no use for answers."""
    return make_plan(dims, replace(config, choice="random"), [grid])
