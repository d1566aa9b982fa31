"""Lightning trainers for the stages, all from the one ``trainer`` section of the configuration."""

import copy
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from yopo_train.errors import UserError
from yopo_train.pipeline.progress import StageProgress
from yopo_train.run_folder import RunFolder

CHECKPOINT_EVERY = 100


class TrainerFactory:
    """Makes a fresh trainer for each stage; the loggers are shared, so that all stages log to the same files.

    Parameters
    ----------
    run
        Where logs and checkpoints go.
    settings
        The ``trainer`` section, objects instantiated. What it says about callbacks concerns training only.
    """

    def __init__(self, run: RunFolder, settings: dict[str, Any]) -> None:
        self.run = run
        self.settings = dict(settings)
        logger = self.settings.pop("logger", None)
        self.loggers: Any = run_loggers(run) if logger is None or logger is True else logger
        self.callbacks: list[Callback] = _as_list(self.settings.pop("callbacks", None))

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
        trainer = self.for_calibration("check")
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _MultiProcessingLauncher):
            raise UserError(
                f"trainer.strategy is {self.settings['strategy']}, expected one that starts scripts, like ddp"
            )
        return trainer.world_size

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
            logger=self.loggers,
            enable_checkpointing=False,
            limit_val_batches=limit or None,  # 0 means no validation during training, not here
        )

    def for_calibration(self, name: str) -> Trainer:
        """A trainer that reads the calibration set once, whatever limits hold for validation."""
        settings = {"logger": False, "enable_checkpointing": False, "limit_val_batches": None, "fast_dev_run": False}
        if str(self.settings.get("precision")).endswith("true"):
            settings["precision"] = None  # would turn the statistics' float32 sums into bfloat16
        return self._make(name, [], **settings)

    def for_training(self, name: str, *callbacks: Callback, all_weights: bool = False) -> Trainer:
        """A trainer that fits, and keeps one checkpoint to continue from.

        Parameters
        ----------
        all_weights
            Everything is trained, so that some weights may get no gradient: the vision tower has layers that nobody
            reads. DDP has to be told.
        """
        added = list(callbacks)
        if self.settings.get("enable_checkpointing") is not False:
            added.append(
                ModelCheckpoint(
                    self.run.checkpoints,
                    filename=self.run.last_checkpoint.stem,
                    every_n_train_steps=CHECKPOINT_EVERY,
                    enable_version_counter=False,
                    save_on_exception=True,  # ctrl-C loses nothing
                )
            )
        trainer = self._make(name, [*self.callbacks, *added], logger=self.loggers)
        if all_weights and isinstance(trainer.strategy, DDPStrategy):
            trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
        return trainer

    def _make(self, name: str, callbacks: list[Callback], **overrides: Any) -> Trainer:
        # copied: a strategy or callback object serves one trainer only
        settings = copy.deepcopy(self.settings) | overrides
        if settings.get("enable_progress_bar") is not False:
            callbacks = [*callbacks, StageProgress(name)]
        settings |= {"callbacks": callbacks, "default_root_dir": self.run.path, "enable_model_summary": False}
        settings["use_distributed_sampler"] = False  # the data module's samplers know about ranks
        try:
            return Trainer(**settings)
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise UserError(f"section trainer: {' '.join(str(error).split())}") from error


def run_loggers(run: RunFolder) -> list[Logger]:
    """``logs/metrics.csv`` and TensorBoard events beside it."""
    place = {"save_dir": run.path, "name": run.logs.name, "version": ""}
    return [MetricsFile(**place, flush_logs_every_n_steps=20), TensorBoardLogger(**place)]


class MetricsFile(CSVLogger):
    """A CSV logger that goes on in the file that is there; Lightning's would delete it."""

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        if self._experiment is None:
            self._experiment = _ContinuedFile(log_dir=self.log_dir)
        return self._experiment


class _ContinuedFile(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        if self._fs.isfile(self.metrics_file_path):
            with self._fs.open(self.metrics_file_path, "r", newline="") as file:
                self.metrics_keys = file.readline().strip().split(",")


def _as_list(value: Any) -> list:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
