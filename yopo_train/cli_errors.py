"""What the command line says when something is wrong: one line. And what other libraries say that nobody needs."""

import logging
import re
import sys
import warnings
from dataclasses import fields
from textwrap import shorten
from typing import NoReturn

import datasets
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from transformers.utils import logging as transformers_logging

from yopo_train.calibration import PlanConfig
from yopo_train.errors import UserError
from yopo_train.recovery.lora_options import REFUSED

# Announcements, and advice that does not fit: batches here are small or few on purpose.
NEEDLESS_LINES = (
    "GPU available",
    "TPU available",
    "Tip:",
    "Seed set to",
    "`Trainer.fit` stopped",
    "Restor",
    "Initializing distributed",
    "initializing deepspeed distributed",
    "Enabling DeepSpeed",
    "distributed_backend=",
    "----------",
    "You are using a CUDA device",
    "LOCAL_RANK",
    "Automatic Mixed Precision",
    "SLURM auto-requeueing",
    "Bypassing SIGTERM",
    "to estimate number of stepping batches",
    "Detected KeyboardInterrupt",
)
NEEDLESS_WARNINGS = (
    ".*does not have many workers",
    ".*Checkpoint directory .* exists and is not empty",
    ".*smaller than the logging interval",
    ".*in eval mode at the start of training",
    ".*LeafSpec.* is deprecated",
    ".*is_gradient_checkpointing.* is deprecated",
    "predict returned None",
    ".*recommended to use .*sync_dist=True",
    ".*lr_scheduler.step.* before .*optimizer.step",
    ".*resuming from a checkpoint that ended before the epoch ended",  # the data module goes on from the same row
)


REFUSALS = r"\s*`val_check_interval`|Early stopping conditioned on metric"
"""How Lightning begins to refuse settings that it judges only in training, by errors without a class of their own."""


CLASS_REASON = r"Problem with given class_path '([^']+)':\s*(.+)"
"""How jsonargparse says what is wrong with a class."""


class OneLineParser(LightningArgumentParser):
    """A parser whose errors are one line, without the usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print and exit with code 2."""
        known = find_user_error(ex)
        report(str(known) if known is not None else one_line(message))
        self.exit(2)


@rank_zero_only
def report(message: str) -> None:
    """Print ``error: <message>``, on one process of many."""
    print(f"error: {message}", file=sys.stderr)


def find_user_error(error: BaseException | None) -> UserError | None:
    """The UserError that an exception is, or was caused by: jsonargparse and Lightning wrap what they catch.

    One from a worker process that loads data arrives with that process's traceback as its message.
    """
    seen = set()  # jsonargparse's may go round in a circle
    while error is not None and not isinstance(error, UserError):
        seen.add(id(error))
        error = error.__cause__ or error.__context__
        error = None if id(error) in seen else error
    name = f"{UserError.__module__}.{UserError.__qualname__}: "
    if error is not None and name in str(error):
        return UserError(str(error).rpartition(name)[2].strip())
    return error


def known_error(error: Exception) -> UserError | None:
    """What to say in one line of an error that ends a command; None where the user is not to blame."""
    known = find_user_error(error)
    if known is None and (isinstance(error, MisconfigurationException) or re.match(REFUSALS, str(error))):
        return UserError(f"section trainer: {shorten(str(error), 300)}")
    return known


def class_error(error: Exception) -> Exception:
    """What to say of a class in the configuration, a logger or a callback, that cannot be made; else the same error."""
    found = re.search(CLASS_REASON, str(error))
    found = found or re.search(r"Given value: \[?Namespace\(class_path='([^']+)'", str(error))
    if found is None or find_user_error(error) is not None:
        return error
    if found.lastindex == 1:  # in a list of classes, or where a name could stand as well
        reasons = re.findall(r"^\s*- (?!Expected a <class)(.+)", str(error), re.MULTILINE)
        return UserError(f"{found[1]}: {reasons[0] if reasons else 'cannot be made'}")
    return UserError(f"{found[1]}: {found[2].strip()}")


def one_line(message: str) -> str:
    """jsonargparse's message as one line: key, what was expected, what was found."""
    key = re.match(r'Parser key "([^"]+)":', message)
    if key is None:
        return _unknown_key(" ".join(message.split()))
    unknown = re.search(CLASS_REASON, message)
    if unknown is not None:
        return f"{_full(key[1])} is {unknown[1]}: {unknown[2].strip()}"
    found = re.search(r"(?:Given value: |Got value: )(.*)", message)
    expected = re.findall(r"Expected an? (<class '[\w.]+'>|typing\.Literal\[.*?\]|[^.\n]+)", message)
    if not expected or found is None:
        return " ".join(message.replace(key[0], f"{_full(key[1])}:").split())
    kinds = " or ".join(dict.fromkeys(_readable(kind) for kind in expected))
    return f"{_full(key[1])} is {found[1].strip()!r}, expected {kinds}"


def _unknown_key(message: str) -> str:
    unknown = re.search(r"does not accept option '(.+)'|Option '(.+)' is not accepted", message)
    lora = re.search(r"\blora\.(\w+)", message)
    reason = f": {REFUSED[lora[1]]}" if lora is not None and lora[1] in REFUSED else ""
    if unknown is not None:
        key = unknown[1] or unknown[2]
        place = "" if "." in key else " in model.pruning or in the init_args of a class"  # jsonargparse leaves it out
        return f"unknown key {key}{place}{reason}"
    return re.sub(r"\b(fit|calibrate|plan|curves|validate|test|predict|data_check)\.(?=\w)", "", message) + reason


def _full(key: str) -> str:
    """jsonargparse names keys of the section model.pruning, which may be null, without their section."""
    inside = key in {item.name for item in fields(PlanConfig)}
    return f"model.pruning.{key}" if inside and "." not in key else key


def _readable(kind: str) -> str:
    """A type as people write it."""
    if kind.startswith("typing.Literal"):
        return "one of " + kind.removeprefix("typing.Literal[").rstrip("]").replace("'", "")
    name = kind.removeprefix("<class '").removesuffix("'>")
    return {"NoneType": "null", "int": "an integer", "float": "a number", "str": "text", "bool": "true or false"}.get(
        name, name.split(".")[-1]
    )


def _is_needed(record: logging.LogRecord) -> bool:
    return not any(text in record.getMessage() for text in NEEDLESS_LINES)


def quiet() -> None:
    """Switch off the announcements above; warnings and errors that mean something stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_is_needed)
    for message in NEEDLESS_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    transformers_logging.disable_progress_bar()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
