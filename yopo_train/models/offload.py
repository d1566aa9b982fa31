"""Models whose weights lie on CPU or disk and visit the device one module at a time (accelerate's device maps)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def is_dispatched(model: nn.Module) -> bool:
    """Whether accelerate has placed the model's parts, so that nobody else may move it."""
    return getattr(model, "_hf_hook", None) is not None


def is_offloaded(module: nn.Module) -> bool:
    """Whether some weights of the module come to the device only while they are used."""
    return any(True for part in module.modules() for _ in _loaders(part))


@contextmanager
def resident(module: nn.Module) -> Iterator[None]:
    """Within this context all weights of the module are on its device: each is read once, however often it is called.

    Does nothing where they are there anyway.
    """
    loaded = []
    try:
        for part in module.modules():
            for hook in _loaders(part):
                hook.pre_forward(part)
                hook.offload = False  # else the part's own forward would load them, and free them, again
                loaded.append((part, hook))
        yield
    finally:
        for part, hook in loaded:
            hook.offload = True
            hook.post_forward(part, None)


def entry_device(model: nn.Module) -> torch.device:
    """The device on which a model begins, wherever its weights lie."""
    for part in model.modules():
        hook = getattr(part, "_hf_hook", None)
        for each in getattr(hook, "hooks", (hook,)):
            if getattr(each, "execution_device", None) is not None:
                return torch.device(each.execution_device)
    return next(model.parameters()).device


def to_entry_device(model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs on the device on which a dispatched model begins; those of any other model are where they belong."""
    return moved(inputs, entry_device(model)) if is_dispatched(model) else inputs


def moved(values: Any, device: Any) -> Any:
    """All tensors in a nest of mappings and sequences on a device."""
    from accelerate.utils import send_to_device

    return send_to_device(values, device)


def _loaders(part: nn.Module) -> list[Any]:
    """The hooks of one module that load and free its weights."""
    hook = getattr(part, "_hf_hook", None)
    return [each for each in getattr(hook, "hooks", (hook,)) if getattr(each, "offload", False)]
