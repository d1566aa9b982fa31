"""When training saves ``checkpoints/last.ckpt``, and from which checkpoint it goes on."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from yopo_train.errors import UserError
from yopo_train.pipeline.signals import Signals, spare_workers
from yopo_train.pipeline.watch import TrainingStopped
from yopo_train.recovery.checkpoint_file import NotWritten
from yopo_train.recovery.checkpoint_state import ExactResume
from yopo_train.run_folder import RunFolder


@dataclass
class CheckpointOptions:
    """How often training saves ``checkpoints/last.ckpt``, to go on from after whatever ends it.

    It holds the trained weights and the optimizer, never the base. Ctrl-C and SIGTERM save one too, the end unless both
    fields are null, and errors of a single process. The best by a score are kept by Lightning's ModelCheckpoint in
    trainer.callbacks.

    Parameters
    ----------
    every_n_steps
        Optimizer steps between two; null: not by steps.
    every_n_minutes
        Minutes between two; null: not by time.
    """

    every_n_steps: int | None = 100
    every_n_minutes: float | None = None

    def __post_init__(self) -> None:
        for name in ("every_n_steps", "every_n_minutes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"checkpoint.{name} is {value}, expected a number > 0, or null")

    @property
    def wanted(self) -> bool:
        """Whether there are to be any without a reason of their own."""
        return self.every_n_steps is not None or self.every_n_minutes is not None


class LastCheckpoint(Checkpoint):
    """Writes the checkpoint to go on from.

    It is written between two batches, when the step is in the logs already, and where one is due after a validation; so
    nothing that is logged before is logged again. What it holds is `ExactResume`'s business.

    Parameters
    ----------
    path
        The file.
    options
        How often.
    state
        Knows of which step a checkpoint would be.
    """

    def __init__(self, path: Path, options: CheckpointOptions, state: ExactResume) -> None:
        self.path, self.options, self.state = path, options, state
        self._signals = Signals()
        self._saved, self._clock = 0, time.monotonic()

    def setup(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        spare_workers(trainer)

    def on_train_start(self, trainer: Trainer, *args: Any) -> None:
        self._saved, self._clock = self.state.step, time.monotonic()
        self._signals.watch(trainer)

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if self._is_due(trainer) and not self.state.owes_validation:
            self._save(trainer)
        self._answer(trainer)

    def on_validation_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._answer(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Only alone: ranks may have different numbers of batches here, and none may wait for another."""
        if trainer.state.fn == TrainerFn.FITTING and trainer.world_size == 1:
            self._answer(trainer)

    def on_validation_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.state.fn == TrainerFn.FITTING and self._is_due(trainer):
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, *args: Any) -> None:
        if self.options.wanted:
            self._try_to_save(trainer)
        self._answer(trainer)
        self._signals.hand_on()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the last whole step; not of several processes, of which perhaps only this one is in trouble."""
        self._signals.leave()
        if trainer.world_size > 1 or isinstance(exception, TrainingStopped):
            return
        try:
            self._save(trainer)
        except (UserError, OSError) as error:
            rank_zero_warn(f"no checkpoint of step {self.state.step}: {error}")

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        self._signals.leave()

    # -- when ---------------------------------------------------------------------------------------------------------
    def _is_due(self, trainer: Trainer) -> bool:
        steps, minutes = self.options.every_n_steps, self.options.every_n_minutes
        due = steps is not None and self.state.step - self._saved >= steps - self._saved % steps
        if minutes is not None:  # clocks differ: the first rank's counts
            due |= bool(trainer.strategy.broadcast(time.monotonic() - self._clock >= 60 * minutes))
        return due

    def _received(self, trainer: Trainer) -> int:
        """The signal that any rank has received, the same on all; 0 for none."""
        if trainer.world_size == 1:
            return self._signals.received
        number = torch.tensor(self._signals.received, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(number, reduce_op="max"))

    def _answer(self, trainer: Trainer) -> None:
        """Save and do what a signal asks for, on all ranks; another one may come meanwhile."""
        while number := self._received(trainer):
            self._try_to_save(trainer)
            self._signals.act(number)

    def _save(self, trainer: Trainer) -> None:
        """Write the checkpoint, unless it is there or nothing whole can be said."""
        if self.state.step == self._saved or self.state.updating or trainer.fast_dev_run:
            return
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved, self._clock = self.state.step, time.monotonic()

    def _try_to_save(self, trainer: Trainer) -> None:
        """`_save`, where no step follows: a disk without room for a checkpoint must not cost the training's result."""
        try:
            self._save(trainer)
        except NotWritten as error:
            trainer.strategy.barrier("Trainer.save_checkpoint")  # which the other ranks are in
            rank_zero_warn(f"no checkpoint of step {self.state.step}: {error}")


def check_checkpoint(run: RunFolder, wanted: str) -> None:
    """Refuse a ``--ckpt_path`` that leads nowhere, before anything is done.

    Raises
    ------
    UserError
        No such file; or training has ended already, and would not begin again from it.
    """
    if wanted == "last":
        return
    if wanted != "none" and not Path(wanted).is_file():
        raise UserError(f"--ckpt_path is {wanted}, expected last, none or a checkpoint file")
    trained = next((path for path in (run.adapter, run.model) if path.is_dir()), None)
    if trained is not None:
        raise UserError(f"--ckpt_path is {wanted}, but the run is trained already: {trained}; delete that folder first")


def checkpoint_to_continue(run: RunFolder, wanted: str) -> Path | None:
    """The checkpoint that training goes on from; None where it begins.

    Parameters
    ----------
    run
        The run.
    wanted
        ``--ckpt_path``: last, none, or a file.
    """
    if wanted == "last":
        return run.last_checkpoint if run.last_checkpoint.is_file() else None
    return None if wanted == "none" else Path(wanted)
