"""``yopo_train.load``: base, plan and adapter together, from a run, a folder or the Hub."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..calibration.same_model import TOLERANCE, first_other_layer
from ..errors import UserError
from ..models import family_of, load_base
from ..models.architecture import check_architecture
from ..models.loading import load_config
from ..models.offload import is_dispatched
from ..pruning import prune
from .source import Source, find

QUANTIZED = 0.05
"""Relative difference of norms between weights and what 4 bits leave of them: at most this, and usually a tenth."""


def load(
    path: str | Path,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    attn_implementation: str = "sdpa",
    device_map: str | dict[str, Any] | None = None,
    max_memory: dict[int | str, int | str] | None = None,
    offload_folder: str | Path | None = None,
    *,
    quantization: str | None = None,
    base: str | Path | None = None,
    pruned: bool = True,
    merge: bool = False,
):
    """Load a model with its processor: with its plan, pruned and fast, and with its adapter, where it has them.

    Parameters
    ----------
    path : str or Path
        Hub id or folder of an adapter or a plan that yopo-train has exported, of a merged model, or of an unpruned base
        model; or a run folder.
    revision : str, optional
        Branch, tag or commit of ``path`` on the Hub. The base's own is recorded beside the adapter.
    dtype : str or torch.dtype
        Of the base; ``auto`` is the type that it was saved in.
    attn_implementation : str
        The attention of the model where it is not pruned.
    device_map, max_memory, offload_folder, quantization
        See :func:`yopo_train.models.loading.load_base`. A model with an adapter has to fit on one device.
    base : str or Path, optional
        Hub id or folder of the base, in place of the recorded one.
    pruned : bool
        False leaves the plan away: the dense model, with its adapter.
    merge : bool
        Add the adapter to the weights (in float32, one at a time), which saves its own cost: what comes back is a plain
        transformers model.

    Returns
    -------
    (PreTrainedModel or PeftModel, ProcessorMixin)
        In evaluation mode.

    Raises
    ------
    UserError
        Nothing there, no base named, a base with another config, other dimensions or other weights than the plan was
        made for, or an adapter that does not fit.
    """
    placement = {"device_map": device_map, "max_memory": max_memory, "offload_folder": offload_folder}
    options = {"dtype": dtype, "attn_implementation": attn_implementation, "quantization": quantization}
    return load_source(find(path, revision), base, pruned, merge, **options, **placement)


def load_source(source: Source, base: str | Path | None, pruned: bool = True, merge: bool = False, **options: Any):
    """`load`, where it is known what there is; ``options`` are those of ``load_base``."""
    if base is not None:
        if source.run is None:  # a mistyped name would load the base alone
            raise UserError(f"{source.name} holds no adapter and no plan of a base, expected one with base ({base})")
        source = replace(source, base=str(base), revision=None)
    if source.base is None:
        raise UserError(f"{source.name} names no base model (it was a local folder), expected base: where yours lies")
    _check_config(source)
    model, processor = load_base(source.base, source.revision, **options)
    _check_weights(source, model)
    if source.adapter is not None and is_dispatched(model):
        found = options.get("device_map")
        raise UserError(f"device_map is {found}, expected one device for a model with an adapter ({source.name})")
    return _put_on(source, model, pruned, merge).eval(), processor


def _put_on(source: Source, model: nn.Module, pruned: bool, merge: bool) -> nn.Module:
    """Adapter and plan."""
    from ..recovery.adapter import load_adapter

    if source.adapter is not None and merge:
        from .merge import merged

        model = merged(load_adapter(model, source.adapter), source.name)
    if source.plan is not None and pruned:
        # the authors' masking, of converted checkpoints, is not what the engine skips
        prune(model, source.plan, "compact" if source.plan.semantics == "compact" else "reference")
    if source.adapter is not None and not merge:
        model = load_adapter(model, source.adapter)
    return model


def _check_config(source: Source) -> None:
    """Compare what the plan was made for with the base's config.json, before any weights are read."""
    if source.plan is None:
        return
    config = load_config(source.base, source.revision)
    source.plan.check(family_of(config).dims(config), source.base)
    check_architecture(source.plan.architecture, config, f"the plan of {source.name}", source.base)


def _check_weights(source: Source, model: nn.Module) -> None:
    """Compare the norms that calibration measured with the weights."""
    if source.scores is None:
        return
    family = family_of(model)
    if source.scores.dims != (dims := family.dims(model.config)):
        raise UserError(f"{source.name}: scores of a model with {source.scores.dims}, but {source.base} has {dims}")
    quantized = {getattr(model, "is_quantized", False), source.is_quantized} - {False}
    if (number := first_other_layer(source.scores, model, QUANTIZED if quantized else TOLERANCE)) is not None:
        raise UserError(
            f"{source.base} is not the base model that {source.name} was made from "
            f"({source.scores.base_model or 'which it does not name'}): the weights of layer {number} differ"
        )
