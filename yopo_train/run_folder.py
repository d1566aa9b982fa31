"""The run folder: which file lies where, how files are written, and whether a folder may be continued.

    config.yaml          the configuration as run; every subcommand takes it back with --config
    scores.safetensors   what calibration measured
    plan.safetensors     the pruning plan
    search.json          what method auto tried before it decided
    curves.json          what single choices change in the answers; stability.json: how many samples are enough
    report.html          all of it as plots, which are in plots/
    results.json         every number of the summary
    predictions/         one answer a line: <stage>.jsonl has the test questions, scored; the commands validate
                         and predict add validate-<stage>.jsonl and predict-<stage>.jsonl, training adds val.jsonl;
                         <stage>/<benchmark>.jsonl has those to a benchmark
    answers.jsonl        what the base model says to training questions without an answer (self-distillation)
    logs/                metrics.csv and TensorBoard events
    checkpoints/         last.ckpt: trainable weights and optimizer
    adapter/ or model/   the result: a standard peft adapter, or a complete model folder
    summary.md           the table

A stage is done when its output is there: its file, or its section of results.json. So a file must never be there by
halves: everything is written under a temporary name and renamed. A section must go when what it was measured on is made
again: `RunFolder.forget`. And a folder must never mix two runs: `RunFolder.check` compares the configuration that made
what is in it.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

from yopo_train.errors import UserError, first_line
from yopo_train.run_keys import KEYS_OF_EVERYTHING, KEYS_OF_PLAN, KEYS_OF_TRAINING, difference, flatten, under

TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp")
"""Names of files and folders that are being written, with the number of the process that writes."""


class RunFolder:
    """Paths and state of one run.

    Parameters
    ----------
    path
        The folder; it need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.scores = self.path / "scores.safetensors"
        self.plan = self.path / "plan.safetensors"
        self.search = self.path / "search.json"
        self.curves = self.path / "curves.json"
        self.stability = self.path / "stability.json"
        self.results_file = self.path / "results.json"
        self.predictions = self.path / "predictions"
        self.logs = self.path / "logs"
        self.answers = self.path / "answers.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.last_checkpoint = self.checkpoints / "last.ckpt"
        self.adapter = self.path / "adapter"
        self.model = self.path / "model"
        self.summary = self.path / "summary.md"

    def __str__(self) -> str:
        return str(self.path)

    # -- whose run it is ------------------------------------------------------------------------------------------
    def check(self, config: dict[str, Any]) -> None:
        """Refuse a folder that holds another run; reads only.

        Parameters
        ----------
        config
            The configuration about to run, as plain data with the sections model, data and trainer.

        Raises
        ------
        UserError
            Not a run folder, or made with another configuration: names the first key that differs.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"run_dir {self.path} is a file, expected a folder")
        if not self.config.is_file():
            others = self.path.exists() and any(not TEMPORARY.fullmatch(file.name) for file in self.path.iterdir())
            if others and not self.config.is_file():  # another rank may just have written it
                raise UserError(f"run_dir {self.path} holds other files and no config.yaml, expected a new folder")
            return
        there, here = flatten(self.read_config()), flatten(config)
        key = difference(there, here, self._counts)
        if key is not None:
            raise UserError(
                f"run_dir {self.path} holds another run: {key} is {there.get(key)!r} there and {here.get(key)!r} "
                "here; choose another run_dir, or delete that folder"
            )

    def claim(self, config: dict[str, Any], command: str) -> None:
        """Create the folder and write ``config.yaml``, its first line the command that made it.

        What killed processes left behind half-written is removed.
        """
        for file in self.path.rglob(".*.tmp"):
            if (name := TEMPORARY.fullmatch(file.name)) and not _is_running(int(name[1])):
                shutil.rmtree(file, ignore_errors=True) if file.is_dir() else file.unlink(missing_ok=True)
        if not self.config.is_file() or self.read_config() != config:
            write_text(self.config, f"# {command}\n" + yaml.safe_dump(config, sort_keys=False))

    def read_config(self) -> dict[str, Any]:
        """``config.yaml`` as plain data.

        Raises
        ------
        UserError
            The file is missing or damaged.
        """
        try:
            content = yaml.safe_load(self.config.read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{self.config}: not readable as YAML: {first_line(error)}") from None
        if not isinstance(content, dict):
            raise UserError(f"{self.config}: holds {type(content).__name__}, expected sections")
        return content

    def _counts(self, key: str) -> bool:
        """Whether something that depends on the key is in the folder already."""
        trained = self.checkpoints.exists() or self.adapter.exists() or self.model.exists()
        if under(key, KEYS_OF_TRAINING):
            return trained
        if under(key, KEYS_OF_PLAN):
            return trained or self.plan.exists()
        started = trained or any(path.exists() for path in (self.plan, self.scores, self.results_file))
        return started and under(key, KEYS_OF_EVERYTHING)

    # -- results --------------------------------------------------------------------------------------------------
    def results(self) -> dict[str, Any]:
        """``results.json``, empty before the first result."""
        if not self.results_file.is_file():
            return {}
        try:
            results = json.loads(self.results_file.read_text())
        except ValueError as error:
            raise UserError(f"{self.results_file}: damaged JSON: {error}") from None
        if not isinstance(results, dict):
            raise UserError(f"{self.results_file}: damaged, expected sections")
        return results

    def record(self, section: str, value: Any) -> None:
        """Set one section of ``results.json``; ``"test.base"`` is the entry ``base`` of the section ``test``."""
        results = self.results()
        *outer, last = section.split(".")
        place = results
        for name in outer:
            place = place.setdefault(name, {})
        place[last] = value
        write_text(self.results_file, json.dumps(results, indent=2) + "\n")

    def forget(self, *sections: str) -> None:
        """Take sections, named as in `record`, out of ``results.json``; nothing is written where none is there."""
        results, found = self.results(), False
        for section in sections:
            *outer, last = section.split(".")
            place = results
            for name in outer:
                place = place.get(name, {})
            found |= last in place
            place.pop(last, None)
        if found:
            write_text(self.results_file, json.dumps(results, indent=2) + "\n")


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 asks only
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def write_text(path: str | Path, text: str) -> None:
    """Write a whole text file, as UTF-8, or none; see `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a whole file or none: to a temporary name in the same folder, then renamed."""
    with new_file(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """A temporary name, in the same folder, that becomes ``path`` when the block ends well.

    Raises
    ------
    UserError
        The folder cannot be made, or the file not be written: the disk is full, or the like.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def need_empty(folder: Path) -> None:
    """Raise a ``UserError`` where a folder to write is a file, or holds something."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file, expected a new or an empty folder")
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: the folder is not empty, expected a new or an empty folder")


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder that becomes ``path`` when the block ends well, and vanishes when it does not.

    A folder that is there already is replaced.

    Raises
    ------
    UserError
        The folder, or a file that the block writes into it, cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a process of the same number that was killed
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:  # a full disk is the second in safetensors' words
        raise UserError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
