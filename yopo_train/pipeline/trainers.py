"""Lightning trainers for the stages, all from the one ``trainer`` section of the configuration."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from yopo_train.errors import UserError
from yopo_train.pipeline.checkpoints import CheckpointOptions, LastCheckpoint
from yopo_train.pipeline.loggers import describe_run, run_loggers
from yopo_train.pipeline.progress import StageProgress
from yopo_train.pipeline.signals import answer_signals
from yopo_train.pipeline.strategies import check_averages, check_processes, check_strategy, for_reading
from yopo_train.pipeline.watch import Watch, WatchOptions
from yopo_train.recovery.checkpoint_file import WholeFile
from yopo_train.recovery.checkpoint_state import ExactResume
from yopo_train.run_folder import RunFolder


class TrainerFactory:
    """Makes a fresh trainer for each stage; the loggers are shared, so that all stages log to the same files.

    Parameters
    ----------
    run
        Where logs and checkpoints go.
    settings
        The ``trainer`` section, objects instantiated. What it says about callbacks concerns training only; its loggers
        are added to the run's own, unless it says false.
    checkpoint
        How often training saves a checkpoint to go on from.
    watch
        When training is stopped because it goes wrong.
    config
        The configuration as run, plain data: what loggers beside the run's own are told it is.
    """

    def __init__(
        self,
        run: RunFolder,
        settings: dict[str, Any],
        checkpoint: CheckpointOptions = CheckpointOptions(),
        watch: WatchOptions = WatchOptions(),
        config: dict[str, Any] | None = None,
    ) -> None:
        self.run, self.checkpoint, self.watch = run, checkpoint, watch
        self.settings = dict(settings)
        self._launchers: list[Any] = []
        self.loggers, self._untold = run_loggers(run, self.settings.pop("logger", None)), config
        self.callbacks: list[Callback] = _as_list(self.settings.pop("callbacks", None))
        for callback in self.callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(run.checkpoints.resolve())

    @property
    def limits(self) -> tuple[int | None, int | None]:
        """``max_steps`` and ``max_epochs`` as configured."""
        return self.settings.get("max_steps"), self.settings.get("max_epochs")

    def check(self) -> int:
        """Make a trainer and throw it away.

        Returns
        -------
        int
            How many processes it would use.

        Raises
        ------
        UserError
            Lightning refuses the settings, or would fork: results would stay in the forked processes. Or no question
            would be answered.
        """
        for name in ("limit_test_batches", "limit_predict_batches"):
            if self.settings.get(name) == 0:
                raise UserError(f"trainer.{name} is 0, expected at least one batch, or null for all of them")
        largest = self.settings.get("gradient_clip_val")
        if largest is not None and largest < 0:
            raise UserError(f"trainer.gradient_clip_val is {largest}, expected a number >= 0, or null")
        batches = self.settings.get("accumulate_grad_batches")
        if batches is not None and batches < 1:
            raise UserError(f"trainer.accumulate_grad_batches is {batches}, expected a number >= 1")
        trainer = self.for_calibration("check")
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _MultiProcessingLauncher):
            raise UserError(
                f"trainer.strategy is {self.settings['strategy']}, expected one that starts scripts, like ddp"
            )
        check_processes(trainer)
        return trainer.world_size

    def check_training(self, benchmarks: Sequence[str], optimizer: str) -> None:
        """Make a trainer that trains, with its own strategy, and throw it away.

        Parameters
        ----------
        benchmarks, optimizer
            See `check_strategy`.

        Raises
        ------
        UserError
            Lightning refuses the strategy, or it cannot have what is asked for; or nothing would be learned.
        """
        if self.settings.get("limit_train_batches") == 0:
            raise UserError("trainer.limit_train_batches is 0, expected at least one batch, or null for all of them")
        trainer = self._make("check", [], logger=False, enable_checkpointing=False)
        check_strategy(trainer, self.settings.get("limit_val_batches"), benchmarks, optimizer)
        check_averages(trainer.strategy, self.callbacks)

    def for_reading(self, name: str, *callbacks: Callback) -> Trainer:
        """A trainer that validates, tests or predicts.

        Parameters
        ----------
        name
            Of the progress bar.
        """
        limit = self.settings.get("limit_val_batches")
        return self._make(
            name,
            list(callbacks),
            logger=self._told_loggers(),
            enable_checkpointing=False,
            limit_val_batches=limit or None,  # 0 means no validation during training, not here
            **for_reading(self.settings.get("strategy")),
        )

    def for_calibration(self, name: str) -> Trainer:
        """A trainer that reads the calibration set once, whatever limits hold for validation."""
        settings = {"logger": False, "enable_checkpointing": False, "limit_val_batches": None, "fast_dev_run": False}
        if str(self.settings.get("precision")).endswith("true"):
            settings["precision"] = None  # would turn the statistics' float32 sums into bfloat16
        return self._make(name, [], **settings, **for_reading(self.settings.get("strategy")))

    def for_work(self) -> Trainer:
        """A trainer for work that reads data and shows bars of its own."""
        settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        settings |= for_reading(self.settings.get("strategy"))
        return self._make("work", [], **settings, limit_val_batches=None, fast_dev_run=False)

    def for_probe(self, steps: int, *callbacks: Callback) -> Trainer:
        """A trainer that trains a few steps on one device, and leaves nothing behind."""
        settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        alone = {"devices": 1, "num_nodes": 1, "strategy": "auto", "max_steps": steps, "max_epochs": None}
        return self._make("probe", list(callbacks), **settings, **alone, limit_val_batches=0, fast_dev_run=False)

    @property
    def shows_progress(self) -> bool:
        """Whether bars are wanted."""
        return self.settings.get("enable_progress_bar") is not False

    def for_training(self, name: str, *callbacks: Callback, all_weights: bool = False) -> Trainer:
        """A trainer that fits, and keeps one checkpoint to continue from.

        Parameters
        ----------
        all_weights
            Everything is trained, so that some weights may get no gradient: the vision tower has layers that nobody
            reads. DDP has to be told.
        """
        state, watch = ExactResume(), Watch(self.watch)
        added: list[Callback] = [state, watch, *callbacks, *self.callbacks]
        if self.settings.get("enable_checkpointing") is not False:
            added.append(LastCheckpoint(self.run.last_checkpoint, self.checkpoint, state))
        trainer = self._make(name, added, lambda: watch.shown, logger=self._told_loggers())
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # none that the user chose
            trainer.strategy.checkpoint_io = WholeFile()
        if all_weights and isinstance(trainer.strategy, DDPStrategy):
            trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
        return trainer

    def _told_loggers(self) -> list[Logger]:
        """The loggers, which know the configuration before they get a number."""
        if self._untold is not None:
            describe_run(self.loggers, self._untold)
        self._untold = None
        return self.loggers

    def _make(self, name: str, callbacks: list[Callback], shown: Callable[[], str] = str, **overrides: Any) -> Trainer:
        # copied: a strategy or callback object serves one trainer only
        settings = copy.deepcopy(self.settings) | overrides
        if settings.get("enable_progress_bar") is not False:
            callbacks = [*callbacks, StageProgress(name, shown)]
        settings |= {"callbacks": callbacks, "default_root_dir": self.run.path, "enable_model_summary": False}
        settings["use_distributed_sampler"] = False  # the data module's samplers know about ranks
        try:
            trainer = Trainer(**settings)
        except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
            raise UserError(f"section trainer: {' '.join(str(error).split())}") from error
        answer_signals(trainer, self._launchers)
        return trainer


def _as_list(value: Any) -> list:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
