"""Model families: how each one is loaded, and where its layers and visual tokens are."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import UserError
from .base import Family, Grid, model_inputs, unwrap
from .internvl import InternVL
from .llava import Llava
from .llava_next import LlavaNext
from .llava_onevision import LlavaOnevision
from .qwen2_vl import Qwen2VL
from .qwen3_vl import Qwen3VL

FAMILIES: tuple[Family, ...] = (
    Llava(),
    LlavaNext(),
    LlavaOnevision(),
    Qwen2VL(),
    Qwen3VL(),
    InternVL(),
)

__all__ = ["FAMILIES", "Family", "Grid", "family_of", "load_base", "model_inputs", "unwrap"]


def family_of(model: nn.Module | Any) -> Family:
    """The family of a model or of its config.

    Raises
    ------
    UserError
        For a model type that no family covers; lists those that are.
    """
    config = unwrap(model).config if isinstance(model, nn.Module) else model
    for family in FAMILIES:
        if config.model_type in family.model_types:
            return family
    known = ", ".join(name for family in FAMILIES for name in family.model_types)
    raise UserError(
        f"model type {config.model_type!r} is not supported, expected one of: {known} "
        f"(a new family is one file, yopo_train/models/{config.model_type}.py, see base.py there)"
    )


def load_base(*args, **kwargs):
    """See :func:`yopo_train.models.loading.load_base`; imported late because it pulls in the processors."""
    from .loading import load_base as load

    return load(*args, **kwargs)
