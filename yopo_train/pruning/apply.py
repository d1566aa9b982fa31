"""Put a plan on a model and take it off again."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from ..models import Family, family_of, unwrap
from ..plan import PruningPlan
from . import decoder, reference
from .layout import VisualTokens
from .linear import unsupported
from .order import LayerOrder, permute_layer, translate_state_dicts
from .state import PruneState

BACKENDS = ("compact", "reference")


def prune(model: nn.Module, plan: PruningPlan, backend: str = "compact") -> nn.Module:
    """Put a plan on a model, in place.

    Parameters
    ----------
    model : nn.Module
        A ``transformers`` multimodal model of a supported family, with or without peft LoRA adapters; adapters may
        also be added afterwards (by peft: ``load_adapter`` of transformers and peft's hot-swapping write weights past
        the state dict, in an order that no longer holds). A model that is pruned already gets the new plan.
        Weights and gradients are reordered; an optimizer's state is not, so make the optimizer afterwards.
    plan : PruningPlan
        Made for a model of these dimensions.
    backend : str
        ``compact`` skips the pruned work; ``reference`` computes everything and masks it, for comparison.

    Returns
    -------
    nn.Module
        The same model. Its inputs, outputs, ``generate`` and state dict are those of the base model.

    Raises
    ------
    UserError
        A plan of other dimensions, an unsupported model, layer kind or backend, or ``semantics: official`` with the
        compact backend.
    """
    base = unwrap(model)
    family = family_of(base)
    _check(base, family, plan, backend)
    unprune(model)
    text_model = family.text_model(base)
    state = PruneState(copy.deepcopy(plan), backend)
    text_model.yopo_state = state
    if backend == "compact":
        with torch.inference_mode(False):
            _reorder(text_model, state)
        for layer in text_model.layers:
            _replace_forward(layer, decoder.layer_forward, state)
    forward = decoder.text_model_forward if backend == "compact" else reference.text_model_forward
    _replace_forward(text_model, forward, state)
    hook = partial(_announce_visual_tokens, family=family, state=state)
    state.handles.append(family.core(base).register_forward_pre_hook(hook, with_kwargs=True))
    return model


def unprune(model: nn.Module) -> nn.Module:
    """Take the plan off: weights are bit-equal to those before :func:`prune`. Does nothing on an unpruned model."""
    base = unwrap(model)
    text_model = family_of(base).text_model(base)
    state: PruneState | None = vars(text_model).pop("yopo_state", None)
    if state is None:
        return model
    for handle in state.handles:
        handle.remove()
    for number, order in state.orders.items():
        permute_layer(text_model.layers[number], order, inverse=True)
    for module in (text_model, *text_model.layers):
        vars(module).pop("forward", None)
        if module in state.forwards:
            module.forward = state.forwards[module]
    return model


def active_plan(model: nn.Module) -> PruningPlan | None:
    """The plan that a model runs under, None for an unpruned model."""
    state = _state(model)
    return state.plan if state is not None else None


@contextmanager
def dense_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Within this context a pruned model computes what the base model computes (a teacher, without a second model)."""
    state = _state(model)
    if state is None:
        yield model
        return
    before, state.enabled = state.enabled, False
    try:
        yield model
    finally:
        state.enabled = before


def _reorder(text_model: nn.Module, state: PruneState) -> None:
    for number in range(state.plan.depth):
        order, layer = LayerOrder.of_plan(state.plan, number), text_model.layers[number]
        permute_layer(layer, order)
        state.orders[number] = order
        state.handles.extend(translate_state_dicts(layer, order))


def _replace_forward(module: nn.Module, function: Callable, state: PruneState) -> None:
    if "forward" in vars(module):
        state.forwards[module] = vars(module)["forward"]
    module.forward = MethodType(function, module)


def _state(model: nn.Module) -> PruneState | None:
    base = unwrap(model)
    return getattr(family_of(base).text_model(base), "yopo_state", None)


def _check(base: nn.Module, family: Family, plan: PruningPlan, backend: str) -> None:
    if backend not in BACKENDS:
        raise UserError(f"backend is {backend!r}, expected one of: {', '.join(BACKENDS)}")
    if backend == "compact" and plan.semantics != "compact":
        raise UserError(f"the plan's semantics are {plan.semantics!r}: only the reference backend computes them")
    plan.check(family.dims(base.config), f"model {base.config._name_or_path or type(base).__name__}")
    family.check_text_model(base.config)
    layers = family.text_model(base).layers
    if any(parameter.is_meta for parameter in layers.parameters()):
        raise UserError("layers whose weights are offloaded (device meta) cannot be pruned, expected loaded weights")
    for name, module in layers.named_modules():
        if name.endswith("_proj") and (reason := unsupported(module)):
            raise UserError(f"layer {name} cannot be pruned: {reason}")


def _announce_visual_tokens(
    core: nn.Module, args: tuple, kwargs: dict[str, Any], family: Family, state: PruneState
) -> tuple[tuple, dict[str, Any]]:
    """Forward pre-hook of the multimodal core: tells the text model which tokens are visual."""
    names = list(inspect.signature(type(core).forward).parameters)[1:]
    args, kwargs = (), {**dict(zip(names, args, strict=False)), **kwargs}
    if not state.prunes or not family.has_images(kwargs):
        return args, kwargs
    input_ids = kwargs.get("input_ids")
    if input_ids is None:
        raise UserError("a pruned model needs input_ids to find the visual tokens, found only inputs_embeds")
    mask = family.visual_mask(core.config, input_ids)
    attention_mask = kwargs.get("attention_mask")
    fits = isinstance(attention_mask, torch.Tensor) and attention_mask.dim() == 2
    if fits and attention_mask.shape[1] >= mask.shape[1]:  # the decoder refuses one that is too short
        mask = mask & attention_mask[:, -mask.shape[1] :].bool()
    grids = family.grids(core.config, mask.sum(1).tolist(), kwargs)
    return args, {**kwargs, "visual_tokens": VisualTokens(mask, grids)}
