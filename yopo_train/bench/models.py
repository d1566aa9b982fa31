"""What bench runs on: named models with random weights, random inputs, and plans of the right size.

Time depends neither on the weights nor on which heads and channels stay, only on how many.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForImageTextToText
from transformers import PretrainedConfig as Config

from ..calibration import PlanConfig, make_plan
from ..cost import Grid
from ..errors import UserError
from ..models import family_of
from ..models.loading import DTYPES, load_config
from ..plan import ModelDims, PruningPlan
from .device import free_bytes
from .named import NAMED

RANDOM_DTYPES = tuple(name for name in DTYPES if name != "auto")


def model_config(name: str) -> Config:
    """The configuration of a named model, a local folder or a Hub id.

    Raises
    ------
    UserError
        There is none of that name, or it cannot be loaded, or its family is not supported.
    """
    if name in NAMED:
        return NAMED[name]()
    if "/" not in name and not Path(name).is_dir():  # no model of these families has such a Hub id: a slip of the pen
        raise UserError(f"--model is {name!r}, expected one of {', '.join(NAMED)}, a folder or a Hub id (owner/name)")
    return load_config(name)


def shape_config(config: Config, layers: int | None, visual_tokens: int) -> list[Grid]:
    """Cut the language model down and size the image, in place; gives the image's grids.

    Parameters
    ----------
    layers
        Keep only so many layers of the language model; None keeps all.
    visual_tokens
        Tokens of one image.

    Raises
    ------
    UserError
        Layers that the model does not have, or visual tokens that no image of it has.
    """
    grids = family_of(config).shape_image(config, visual_tokens)
    text = config.get_text_config()
    most = text.num_hidden_layers
    if layers is not None and not 1 <= layers <= most:
        raise UserError(f"--layers is {layers}, expected 1 to {most}")
    text.num_hidden_layers = layers or most
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[: text.num_hidden_layers]
    return grids


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
    with device, QuickWeights():
        model = AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    return model.eval()


class QuickWeights(TorchFunctionMode):
    """Within it large weights are not drawn number by number, which takes a CPU minutes, but filled with few that are.

    The period is a prime, so that no two rows of a weight are alike.
    """

    NAMES = frozenset(
        f"{how}{distribution}_"
        for how in ("", "trunc_", "kaiming_", "xavier_")
        for distribution in ("normal", "uniform")
    )
    PERIOD, STD = 1048583, 0.02

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        weight = args[0] if args else kwargs.get("tensor")
        large = isinstance(weight, Tensor) and weight.numel() > self.PERIOD and not weight.is_meta
        if not large or getattr(func, "__name__", None) not in self.NAMES:
            return func(*args, **kwargs)
        numbers = self.STD * torch.randn(self.PERIOD, device=weight.device)
        for part in weight.detach().view(-1).split(self.PERIOD):
            part.copy_(numbers[: len(part)])
        return weight


def random_inputs(model: nn.Module, grids: list[Grid], text_tokens: int, batch: int) -> dict[str, Tensor]:
    """Text, an image with these grids, text: a quarter of the text in front, as LLaVA's system prompt is."""
    visual_tokens = sum(map(math.prod, grids))
    parameter, config, family = next(model.parameters()), model.config, family_of(model)
    placeholders = family.placeholders(config)
    before, vocabulary = text_tokens // 4, config.get_text_config().vocab_size
    words = torch.tensor([token for token in range(min(vocabulary, 1000)) if token not in placeholders.values()])
    ids = words[torch.randint(len(words), (batch, visual_tokens + text_tokens))]
    ids[:, before : before + visual_tokens] = placeholders["image"]
    images = family.random_images(config, ids, grids)
    inputs = {name: x.to(parameter.dtype) if x.is_floating_point() else x for name, x in images.items()}
    return {name: x.to(parameter.device) for name, x in {"input_ids": ids, **inputs}.items()}


def random_plan(dims: ModelDims, config: PlanConfig, grids: list[Grid]) -> PruningPlan:
    """A plan for a budget that keeps random heads and channels: of the right size, of no use for answers."""
    return make_plan(dims, replace(config, choice="random"), grids)
