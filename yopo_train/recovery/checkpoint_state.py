"""What makes a resumed training the same training, bit for bit."""

import copy
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from yopo_train.errors import UserError
from yopo_train.ranks import of_all_ranks
from yopo_train.recovery.buckets import settle_buckets
from yopo_train.recovery.checkpoint_random import packed, random_state, set_random_state, unpacked
from yopo_train.recovery.checkpoint_settings import refuse_other_settings, settings_of

KEY = "yopo_resume"
"""Where a checkpoint has what this file adds to it."""


class ExactResume(Callback):
    """Has every checkpoint of a fit, whoever writes it and when, describe the last whole optimizer step.

    Between two optimizer steps neither weights nor optimizer, schedule or gradient scaler change. What does change is
    counters, the place in the data and the random state. They are taken down after each optimizer step, and put into
    each checkpoint in place of those of the moment: micro-batches behind that step are done again after a resume, with
    the same random numbers, as their gradients are gone.

    The random state that a training batch begins with is the one that the batch before it has left, whatever drew from
    it in between: evaluation, loaders, loggers. So neither a resume nor the number of validations changes a training.
    Ranks behind the first get a random state of their own, or they would all drop the same parts of their samples.

    A validation that was due after that step and has not ended is run when the training goes on.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Any] | None = None
        self._random: dict[str, Any] = {}
        self.updating = False
        """Whether weights may be half updated: then no checkpoint can be made of them."""

    @property
    def step(self) -> int:
        """The optimizer step that a checkpoint made now would describe; 0 before the first."""
        return self._kept["global_step"] if self._kept is not None else 0

    @property
    def owes_validation(self) -> bool:
        """Whether a validation after that step has not ended."""
        return self._kept is not None and self._kept["validation_due"]

    # -- taking down --------------------------------------------------------------------------------------------------
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        device = trainer.strategy.root_device
        if self._kept is None:
            if trainer.global_rank:
                torch.manual_seed(torch.initial_seed() + trainer.global_rank)
            self._random = random_state(device)
            self._keep(trainer, validation_due=False)
        settle_buckets(trainer.strategy.model)
        set_random_state(self._random, device)  # a loader without workers may draw before the first batch
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                if hasattr(logger, "rewind"):
                    logger.rewind(self.step, self.owes_validation)
        if self.owes_validation:
            self._validate(trainer)

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        set_random_state(self._random, trainer.strategy.root_device)

    def on_before_optimizer_step(self, *args: Any) -> None:
        self.updating = True

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.updating = False
        self._random = random_state(trainer.strategy.root_device)
        if trainer.global_step != self.step:
            loop = trainer.fit_loop
            self._keep(trainer, validation_due=loop.epoch_loop._should_check_val_fx(loop._data_fetcher))

    def on_validation_end(self, trainer: Trainer, *args: Any) -> None:
        if self._kept is not None and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._kept["validation_due"] = False

    def _keep(self, trainer: Trainer, validation_due: bool) -> None:
        self._kept = {
            "epoch": trainer.current_epoch,
            "global_step": trainer.global_step,
            "fit_loop": copy.deepcopy(trainer.fit_loop.state_dict()),
            "data": copy.deepcopy(trainer.datamodule.state_dict()) if trainer.datamodule is not None else {},
            "random": self._random,
            "validation_due": validation_due,
        }

    def _validate_though_finished(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """One that goes on after its last step ends at once, without its start: do what is owed all the same."""
        loop = trainer.fit_loop
        run = loop.run

        def whole() -> None:
            run()
            if self.owes_validation:
                self.on_train_start(trainer, pl_module)

        loop.run = whole  # of this one trainer

    # -- in checkpoints -----------------------------------------------------------------------------------------------
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """On all ranks at once, as each gives its random state."""
        if self._kept is None:
            return
        kept = self._kept
        checkpoint["epoch"], checkpoint["global_step"] = kept["epoch"], kept["global_step"]
        checkpoint["loops"]["fit_loop"] = kept["fit_loop"]
        if kept["data"]:
            checkpoint[_name(trainer.datamodule)] = kept["data"]
        checkpoint[KEY] = {
            "processes": trainer.world_size,
            "settings": settings_of(trainer, pl_module.optimizer_options),
            "random": of_all_ranks(packed(kept["random"])),
            "validation_due": kept["validation_due"],
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take over what `on_save_checkpoint` gave.

        Raises
        ------
        UserError
            Not made by this program, or by another number of processes, or with other settings: the order of the
            rows, which rank sees which, or the schedule would not go on.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return
        state = checkpoint.get(KEY)
        if state is None:
            raise UserError("the checkpoint has no random state in it, expected one that yopo-train fit has written")
        if state["processes"] != trainer.world_size:
            raise UserError(
                f"the checkpoint was made by {state['processes']} processes, expected {trainer.world_size} "
                "(trainer.devices times trainer.num_nodes): each process has its own part of the rows"
            )
        refuse_other_settings(state.get("settings", {}), settings_of(trainer, pl_module.optimizer_options))
        self._random = unpacked(state["random"][trainer.global_rank])
        self._kept = {
            "epoch": checkpoint["epoch"],
            "global_step": checkpoint["global_step"],
            "fit_loop": copy.deepcopy(checkpoint["loops"]["fit_loop"]),
            "data": copy.deepcopy(checkpoint.get(_name(trainer.datamodule), {})),
            "random": self._random,
            "validation_due": state["validation_due"],
        }
        if self.owes_validation:
            self._validate_though_finished(trainer, pl_module)

    def _validate(self, trainer: Trainer) -> None:
        """As Lightning's training loop does after a batch, in whose epoch, which may have ended with it."""
        loop, epochs = trainer.fit_loop.epoch_loop.val_loop, trainer.fit_loop.epoch_progress.current
        trainer.validating, loop.restarting = True, False
        here, epochs.completed = epochs.completed, self._kept["epoch"]
        loop.run()
        trainer.training, epochs.completed = True, here


def _name(datamodule: Any) -> str:
    """Under which key Lightning keeps a data module's state."""
    return type(datamodule).__qualname__
