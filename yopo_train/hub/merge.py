"""``yopo-train merge``: the adapter added to the base's weights, as a complete model folder."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn

from ..convert.files import check_destination, check_disk
from ..errors import UserError, first_line
from ..run_folder import new_folder
from .base import Base, base_of, check_hub_id, configured_base
from .card_data import check_license
from .contents import check, is_exported
from .folder import published_of, write_about
from .load import load
from .source import Source, find

SHARD_SIZE = "5GB"


def merge(
    path: str | Path,
    out: str | Path,
    *,
    base: str | Path | None = None,
    base_model: str | None = None,
    license: str | None = None,
    max_shard_size: str = SHARD_SIZE,
) -> Path:
    """Write a complete model: stock transformers loads it dense, `load` under its plan.

    Parameters
    ----------
    path
        A run folder, or an exported folder, or its Hub id. The weights of a full finetune are complete: plan and card
        are put beside them.
    out
        New or empty folder.
    base
        Folder or Hub id of the base, in place of the recorded one.
    base_model
        What the card calls a base that was a local folder: its Hub id.
    license
        The licence's identifier on the Hub; None is that of the base model.
    max_shard_size
        Of one file of weights, like 5GB.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    UserError
        Nothing to merge, whatever `load` refuses, or a folder that cannot be written or is not empty; nothing is
        written then.
    """
    out = Path(out)
    check_license(license)
    source = find(path)
    if source.run is None or (source.adapter is None and not source.is_finetuned):
        raise UserError(f"{path}: holds no adapter, so there is nothing to merge into the base model")
    check_destination(out, source.run.path)
    about = published_of(source.run, _public_base(source, base_model), source.plan, "model", None, license)
    model, processor = load(path, base=base, pruned=False, merge=True)
    check_disk(out, sum(weight.numel() * weight.element_size() for weight in model.state_dict().values()))
    with new_folder(out) as temporary:
        try:
            model.save_pretrained(temporary, max_shard_size=max_shard_size)
            processor.save_pretrained(temporary)
        except ValueError as error:  # of a generation config that contradicts itself, or a size that is none
            raise UserError(f"{out}: cannot be saved: {first_line(error)}") from error
        write_about(temporary, source.run, about, source.scores)
        check(temporary, publish=True)
    return out


def _public_base(source: Source, base_model: str | None) -> Base:
    """What the card calls the base: a published folder says it, a run's config.yaml may hold a local folder."""
    if not is_exported(source.run.path):
        return base_of(source.run, source.plan, source.scores, base_model)
    if base_model is not None and source.base is not None and base_model != source.base:
        raise UserError(f"base_model is {base_model}, but {source.name} was made from {source.base}")
    if base_model is not None:
        check_hub_id(base_model, "base_model")
    name = base_model or source.base
    return Base(name, source.revision, name or configured_base(source.run)[0])


@torch.no_grad()
def merged(model: PeftModel, name: str) -> nn.Module:
    """The base model with the adapter in its weights, which are changed in place.

    The sum is taken in float32 and rounded once, one weight at a time: no float32 copy of the model is made.

    Parameters
    ----------
    model
        Not pruned.
    name
        What a message calls it.

    Raises
    ------
    UserError
        Quantized weights, or ones that are not finite once merged.
    """
    for place, layer in model.named_modules():
        if isinstance(layer, BaseTunerLayer):
            _merge_layer(layer, f"{name}: {place}")
        elif isinstance(layer, ModulesToSaveWrapper):  # trained whole, maybe in float32
            saved, original = layer.modules_to_save[layer.active_adapter], layer.original_module
            for new, old in zip(saved.parameters(), original.parameters(), strict=True):
                new.data = new.data.to(old.dtype)
    return model.unload()


def _merge_layer(layer: BaseTunerLayer, place: str) -> None:
    weight = layer.get_base_layer().weight
    if not weight.is_floating_point():
        raise UserError(f"{place} is of type {weight.dtype}, expected weights that are not quantized")
    dtype = weight.dtype
    weight.data = weight.data.float()
    try:
        layer.merge(safe_merge=True)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{place} cannot be merged: {first_line(error)}") from error
    weight = layer.get_base_layer().weight  # peft may have put another one there
    weight.data = weight.data.to(dtype)
    if not weight.isfinite().all():
        raise UserError(f"{place} is not finite in {dtype} once the adapter is merged")
