"""What model, plan and training a checkpoint belongs to: no other may go on from it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from yopo_train.errors import UserError
from yopo_train.pruning import active_plan

if TYPE_CHECKING:
    from yopo_train.recovery.module import YopoModule

KEY = "yopo"
"""Where a checkpoint says so."""


def identity_of(module: YopoModule) -> dict[str, Any]:
    """Numbers and texts, by the names that they have in a configuration."""
    plan = active_plan(module.model)
    kinds = {"base": module.base, "plan": plan.id if plan is not None else None, "tuning": module.tuning}
    kinds["backend"] = module.backend if plan is not None else None  # AdamW's moments stand in its order of heads
    kinds |= {"loss": module.loss, "freeze": sorted(module.freeze_parts), "quantization": module.quantization}
    sections = {"lora": module.lora_options} if module.tuning == "lora" else {}
    sections |= {"distillation": module.distillation} if module.has_teacher else {}
    sections["optimizer"] = module.optimizer_options
    options = {f"{name}.{key}": value for name, each in sections.items() for key, value in asdict(each).items()}
    return kinds | {name: str(value) for name, value in options.items()}


def refuse_other_training(checkpoint: dict[str, Any], module: YopoModule) -> None:
    """Compare what a checkpoint belongs to with the module.

    Raises
    ------
    UserError
        Another base, plan or tuning, or other weights; names the first difference.
    """
    here = identity_of(module)
    there = {"backend": here["backend"]} | checkpoint.get(KEY, {})  # older ones do not say
    for name in here:
        if there.get(name) != here[name]:
            raise UserError(f"the checkpoint was made with {name} {there.get(name)!r}, expected {here[name]!r}")
    found = {name: tuple(weight.shape) for name, weight in checkpoint["state_dict"].items()}
    wanted = {name: tuple(weight.shape) for name, weight in module.trainable().items()}
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise UserError(f"checkpoint weight {name} has shape {found.get(name)}, expected {wanted.get(name)}")
