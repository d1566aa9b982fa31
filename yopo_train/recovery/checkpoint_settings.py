"""What of trainer and data a training depends on: with other values of it, a resumed one would not be the same."""

import os
from typing import Any

from lightning.pytorch import Trainer

from yopo_train.errors import UserError
from yopo_train.recovery.options import OptimizerOptions
from yopo_train.run_keys import OFF


def settings_of(trainer: Trainer, optimizer: OptimizerOptions) -> dict[str, str]:
    """Values by the name that they have in a configuration, as texts.

    The number of steps counts where the schedule's length follows from it; with ``schedule_steps`` a fit may be longer
    than the one before it.
    """
    found: dict[str, Any] = {
        "trainer.accumulate_grad_batches": trainer.accumulate_grad_batches,
        "trainer.gradient_clip_val": trainer.gradient_clip_val,
        "trainer.limit_train_batches": trainer.limit_train_batches,
        "trainer.precision": trainer.precision,
    }
    if optimizer.schedule_steps is None:
        found |= {"trainer.max_steps": trainer.max_steps, "trainer.max_epochs": trainer.max_epochs}
    data = trainer.datamodule
    if data is not None:
        sources = [(_place(each.path), each.split, each.weight) for each in data.train or []]
        found |= {
            "data.path": _place(data.path),
            "data.train": sources,
            "data.train_limit": data.limits["train"],
            "data.batch_size": data.batch_size,
            "data.max_length": data.max_length,
            "data.max_pixels": data.sizing.max_pixels,
            "data.letterbox": data.sizing.letterbox,
            "data.group_by_length": data.group_by_length,
            "data.seed": data.seed,
        }
    return {name: str(value) for name, value in found.items()}


def refuse_other_settings(there: dict[str, str], here: dict[str, str]) -> None:
    """Compare what a checkpoint was made with to what is wanted now.

    Raises
    ------
    UserError
        Names the first difference.
    """
    for name in here:
        # what an older version did not have was off
        if there.get(name) != here[name] and (name in there or here[name] not in map(str, OFF)):
            raise UserError(f"the checkpoint was made with {name} {there.get(name)}, expected {here[name]}")


def _place(path: str) -> str:
    """A file or folder however it is spelled; a hub id as it is."""
    return os.path.realpath(path) if os.path.exists(path) else path
