"""The log files of a run, which all stages share: ``logs/metrics.csv`` and TensorBoard events beside it."""

import csv
import io
import os
from collections.abc import Sequence
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment

from yopo_train.run_folder import RunFolder, write_text
from yopo_train.summary import STAGES


def run_loggers(run: RunFolder, added: Any = None) -> list[Logger]:
    """The loggers of a run.

    Parameters
    ----------
    run
        Whose folder it is.
    added
        ``trainer.logger``: false for none at all; a logger, or several, beside the two that are always there.
    """
    if added is False:
        return []
    place = {"save_dir": run.path, "name": run.logs.name, "version": ""}
    given = [] if added is None or added is True else list(added) if isinstance(added, list | tuple) else [added]
    return [MetricsFile(**place, flush_logs_every_n_steps=20), EventFiles(**place), *given]


def describe_run(loggers: Sequence[Logger], config: dict[str, Any]) -> None:
    """Tell the loggers beside the run's own what the run is, as their hyperparameters.

    What the configuration says about loggers and callbacks stays here: there may be keys and passwords in it.
    """
    trainer = {name: value for name, value in config["trainer"].items() if name not in ("logger", "callbacks")}
    config = config | {"trainer": trainer}
    for logger in loggers:
        if not isinstance(logger, MetricsFile | EventFiles):  # config.yaml is beside them
            logger.log_hyperparams(config)


class MetricsFile(CSVLogger):
    """A CSV logger that goes on in the file that is there; Lightning's would delete it."""

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        if self._experiment is None:
            self._experiment = _ContinuedFile(log_dir=self.log_dir)
        return self._experiment

    def rewind(self, step: int, validates: bool = False) -> None:
        """Take out what a training writes again that goes on after so many steps, or with the validation after them."""
        self.experiment.rewind(step, validates)


class _ContinuedFile(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        if self._fs.isfile(self.metrics_file_path):
            with self._fs.open(self.metrics_file_path, "r", newline="") as file:
                self.metrics_keys = file.readline().strip().split(",")

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._write(self._rows(), fieldnames)

    def rewind(self, step: int, validates: bool) -> None:
        if self._fs.isfile(self.metrics_file_path):
            rows = self._rows()
            kept = [row for row in rows if not (_is_of_training(row) and _is_done_again(row, step, validates))]
            if kept != rows or not self._ends_well():
                self._write(kept, self.metrics_keys)

    def _rows(self) -> list[dict[str, str]]:
        """Whole rows; a process that was killed may have left half a one at the end."""
        with self._fs.open(self.metrics_file_path, "r", newline="") as file:
            rows = list(csv.DictReader(file))
        whole = [row for row in rows if None not in row and None not in row.values() and row["step"].isdigit()]
        return whole if self._ends_well() else whole[: len(rows) - 1]

    def _ends_well(self) -> bool:
        with self._fs.open(self.metrics_file_path, "rb") as file:
            return file.read().endswith(b"\n")

    def _write(self, rows: list[dict[str, str]], names: list[str]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=names)
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.metrics_file_path, text.getvalue())


class EventFiles(TensorBoardLogger):
    """TensorBoard events, those of steps that are done again marked as outdated."""

    def rewind(self, step: int, validates: bool = False) -> None:
        """Have TensorBoard leave out what earlier files say of steps from this one on."""
        files = os.listdir(self.log_dir) if os.path.isdir(self.log_dir) else []
        if not step or not any(name.startswith("events.out.tfevents") for name in files):
            return
        if self._experiment is not None:
            self._experiment.close()
        self._experiment, self._kwargs = None, self._kwargs | {"purge_step": step}
        self.experiment.flush()
        self._kwargs = {name: value for name, value in self._kwargs.items() if name != "purge_step"}


def _is_done_again(row: dict[str, str], step: int, validates: bool) -> bool:
    """Whether a training that goes on after so many steps writes the row again.

    Steps are counted from 0, and a validation has the number of the step before it; benchmarks that of steps done.
    """
    kinds, number = {name.split("/")[0] for name, value in row.items() if value}, int(row["step"])
    if "bench" in kinds:
        return number > step
    return number >= step or (validates and number == step - 1 and "val" in kinds)


def _is_of_training(row: dict[str, str]) -> bool:
    """Whether a fit wrote the row, and no stage that only scores."""
    named = {name.split("/")[0].removeprefix("validate-") for name, value in row.items() if value}
    return not named & set(STAGES)
