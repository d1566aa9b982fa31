"""The run folder: which file lies where, how files are written, and whether a folder may be continued.

    config.yaml          the configuration as run; every subcommand takes it back with --config
    scores.safetensors   what calibration measured
    plan.safetensors     the pruning plan
    search.json          what method auto tried before it decided
    curves.json          what single choices change in the answers; stability.json: how many samples are enough
    report.html          all of it as plots, which are in plots/
    results.json         every number of the summary
    predictions/         one answer a line: <stage>.jsonl has the test questions, scored; the commands validate
                         and predict add validate-<stage>.jsonl and predict-<stage>.jsonl, training adds val.jsonl
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
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

from yopo_train.errors import UserError

# A configuration key counts from the moment on that something made with it is in the folder. A key that two groups name
# belongs to the later one: everything depends on the section data, but on the size of training batches only training
# does, and it may be lowered where memory was too small. FREE_KEYS change no result beyond rounding, see `is_free`.
KEYS_OF_EVERYTHING = (
    "seed_everything",
    "model.base",
    "model.revision",
    "model.dtype",
    "model.max_new_tokens",
    "data",
    "trainer.limit_test_batches",
    "trainer.fast_dev_run",
    "trainer.precision",
)
KEYS_OF_PLAN = ("model.pruning", "model.plan", "model.backend")
KEYS_OF_TRAINING = (
    "model.tuning",
    "model.lora",
    "model.optimizer",
    "model.save_dtype",
    "data.batch_size",
    "data.max_length",
    "data.train_limit",
    "trainer.max_steps",
    "trainer.max_epochs",
    "trainer.accumulate_grad_batches",
    "trainer.gradient_clip_val",
    "trainer.gradient_clip_algorithm",
    "trainer.limit_train_batches",
    "trainer.overfit_batches",
    "trainer.max_time",
    "trainer.devices",
    "trainer.num_nodes",
)
FREE_KEYS = (
    "run_dir",
    "data.num_workers",
    "data.eval_batch_size",
    "model.gradient_checkpointing",
    "trainer.logger",
    "trainer.log_every_n_steps",
    "trainer.enable_progress_bar",
)


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
            if self.path.exists() and any(self.path.iterdir()):
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
        """Create the folder and write ``config.yaml``, its first line the command that made it."""
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
            raise UserError(f"{self.config}: not readable as YAML: {str(error).splitlines()[0]}") from None
        if not isinstance(content, dict):
            raise UserError(f"{self.config}: holds {type(content).__name__}, expected sections")
        return content

    def _counts(self, key: str) -> bool:
        """Whether something that depends on the key is in the folder already."""
        trained = self.checkpoints.exists() or self.adapter.exists() or self.model.exists()
        if _under(key, KEYS_OF_TRAINING):
            return trained
        if _under(key, KEYS_OF_PLAN):
            return trained or self.plan.exists()
        started = trained or any(path.exists() for path in (self.plan, self.scores, self.results_file))
        return started and _under(key, KEYS_OF_EVERYTHING)

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


def write_text(path: str | Path, text: str) -> None:
    """Write a whole text file, as UTF-8, or none; see `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a whole file or none: to a temporary name in the same folder, then renamed."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


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


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as one level of dotted keys: ``{"data": {"path": p}}`` is ``{"data.path": p}``."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def difference(there: dict[str, Any], here: dict[str, Any], counts: Callable[[str], bool]) -> str | None:
    """The first key, in the order in which keys matter, that counts, is not free and differs; None where none does.

    Parameters
    ----------
    there, here
        Two configurations, flat.
    counts
        Whether a key is to be compared at all.
    """
    for key in sorted(there.keys() | here.keys(), key=_rank):
        if counts(key) and not is_free(key, here) and not _same(there.get(key), here.get(key)):
            return key
    return None


def is_free(key: str, config: dict[str, Any]) -> bool:
    """Whether a key changes no result; the size of test batches does where their number is limited.

    Parameters
    ----------
    config
        The whole configuration, flat.
    """
    limited = config.get("trainer.limit_test_batches") is not None or config.get("trainer.fast_dev_run")
    return _under(key, FREE_KEYS) and not (key == "data.eval_batch_size" and limited)


def _same(there: Any, here: Any) -> bool:
    """Whether two values mean the same: a folder may be spelled in several ways."""
    if isinstance(there, str) and isinstance(here, str):
        return there == here or os.path.realpath(there) == os.path.realpath(here)
    return there == here


def _under(key: str, names: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(name + ".") for name in names)


def _rank(key: str) -> tuple[int, str]:
    """Keys in the order in which they matter."""
    groups = (KEYS_OF_TRAINING, KEYS_OF_PLAN, KEYS_OF_EVERYTHING)
    return next((-i for i, names in enumerate(groups) if _under(key, names)), 1), key
