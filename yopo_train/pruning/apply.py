"""Put a plan on a model and take it off again."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..models import Family, family_of, unwrap
from ..plan import PruningPlan
from . import decoder, reference
from .inputs import announce_visual_tokens, answerable_forward
from .linear import refuse_token_mixing, unsliceable
from .order import BLOCKS, LayerOrder, permute_layer, translate, translate_state_dicts
from .state import PruneState
from .vision import replace_encoders

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
        Linear layers that cannot be sliced (quantized, offloaded by accelerate, DoRA) are computed whole, with one
        warning. FSDP2 may shard the model before or after; ``torch.compile`` works, with graph breaks.
    plan : PruningPlan
        Made for a model of these dimensions. Without a radius a visual query sees every earlier visual token of its
        sample, those of other images too; with one, only its own image and frame.
    backend : str
        ``compact`` skips the pruned work; ``reference`` computes everything and masks it, for comparison.

    Returns
    -------
    nn.Module
        The same model. Its inputs, outputs, ``generate`` and state dict are those of the base model, with these
        exceptions: hidden states and logits of visual tokens are zeros, so that neither an answer nor a label may
        follow from one; of the vision tower's own outputs ``get_image_features`` gives only what was computed; static
        KV caches are refused. Forward hooks on q/k/v/o/gate/up/down projections see no call that is split between
        visual and text tokens.

    Raises
    ------
    UserError
        A plan of other dimensions, an unsupported model, layer kind or backend, layers on several devices, or
        ``semantics: official`` with the compact backend.
    """
    base = unwrap(model)
    family = family_of(base)
    _check(base, family, plan, backend)
    unprune(model)
    core, text_model = family.core(base), family.text_model(base)
    state = PruneState(copy.deepcopy(plan), backend)
    forward = decoder.text_model_forward if backend == "compact" else reference.text_model_forward
    state.replace(text_model, "forward", forward)
    if backend == "compact":
        with torch.inference_mode(False):
            _reorder(text_model, state)
        for layer in text_model.layers:
            state.replace(layer, "forward", decoder.layer_forward)
    replace_encoders(core, family, state)
    state.replace(base, "forward", answerable_forward(base, family))
    announce_visual_tokens(core, family, state)
    return model


def unprune(model: nn.Module) -> nn.Module:
    """Take the plan off: weights are bit-equal to those before :func:`prune`. Does nothing on an unpruned model."""
    base = unwrap(model)
    state = _state(base)
    if state is None:
        return model
    state.check_still_there()
    layers = family_of(base).text_model(base).layers
    for number, order in state.orders.items():
        permute_layer(layers[number], order, inverse=True)
    state.put_back()
    return model


def active_plan(model: nn.Module) -> PruningPlan | None:
    """The plan that a model runs under, None for an unpruned model."""
    state = _state(model)
    return state.plan if state is not None else None


@contextmanager
def dense_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Within this context a pruned model computes what the base model computes (a teacher, without a second model).

    It holds for the plan that is on the model now: a :func:`prune` within the context puts on a new one, which prunes.
    """
    state = _state(model)
    if state is None:
        yield model
        return
    before, state.enabled = state.enabled, False
    try:
        yield model
    finally:
        state.enabled = before


@contextmanager
def base_order(model: nn.Module) -> Iterator[nn.Module]:
    """Within this context the plan is off the model; behind it, it is on again.

    For whatever makes weights of weights (an adapter that begins with their singular values), or puts layers on the
    model that the plan has to know about.
    """
    state = _state(model)
    unprune(model)
    try:
        yield model
    finally:
        if state is not None:
            prune(model, state.plan, state.backend)


def to_base_order(model: nn.Module, weights: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Some of a model's weights, or tensors of their shape, as they stand without the plan that is on it.

    Its state dict does so too, but has a second copy of all reordered weights in memory then.

    Parameters
    ----------
    weights
        By their names in the model, with ``prefix`` in front of them.
    """
    return _translated(model, weights, prefix, inverse=True)


def to_plan_order(model: nn.Module, weights: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """The other way round, for weights that do not come in by ``load_state_dict``."""
    return _translated(model, weights, prefix, inverse=False)


def _translated(model: nn.Module, weights: Mapping[str, Tensor], prefix: str, inverse: bool) -> dict[str, Tensor]:
    state, found = _state(model), dict(weights)
    if state is not None:
        layers = family_of(model).text_model(unwrap(model)).layers
        names = {module: name for name, module in model.named_modules()}
        for number, order in state.orders.items():
            translate(order, found, f"{prefix}{names[layers[number]]}.", inverse)
    return found


def _reorder(text_model: nn.Module, state: PruneState) -> None:
    whole = {}
    for number in range(state.plan.depth):
        layer = text_model.layers[number]
        reasons = _unsliceable_blocks(layer)
        whole.update({f"layers.{number}.{name}": reason for name, reason in reasons.items()})
        order = LayerOrder.of_plan(state.plan, number, frozenset(name.split(".")[0] for name in reasons))
        permute_layer(layer, order)
        state.orders[number] = order
        state.handles.extend(translate_state_dicts(layer, order))
    if whole:
        name, reason = next(iter(whole.items()))
        warnings.warn(
            f"{len(whole)} linear layers cannot be sliced ({name}: {reason}): their blocks compute all heads or "
            "channels for visual tokens too, which is as exact as ever but slower than the plan promises",
            stacklevel=3,
        )


def _unsliceable_blocks(layer: nn.Module) -> dict[str, str]:
    """The projections that keep their blocks in the base model's order, and why."""
    names = [f"{block}.{name}" for block, projections in BLOCKS.items() for name in projections]
    reasons = {name: unsliceable(layer.get_submodule(name)) for name in names}
    return {name: reason for name, reason in reasons.items() if reason}


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
    for name, module in layers.named_modules():
        if name.endswith("_proj"):
            refuse_token_mixing(module, name)
        offloaded = any(parameter.is_meta for parameter in module.parameters(recurse=False))
        if offloaded and not hasattr(module, "_hf_hook"):  # accelerate's, which loads the weights for each call
            raise UserError(f"layer {name} has no weights (device meta), expected loaded or offloaded ones")
    devices = sorted({str(parameter.device) for parameter in layers.parameters() if not parameter.is_meta})
    if len(devices) > 1:
        raise UserError(f"the decoder layers are spread over {', '.join(devices)}, expected one device (or offloading)")
