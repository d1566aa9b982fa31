"""Small files of an original checkpoint, and the rules for the folder that is written."""

from __future__ import annotations

import glob
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from ..errors import UserError, first_line
from ..run_folder import need_empty

SPARE_BYTES = 64 * 2**20
"""Room for what is written beside the weights: tokenizer, configuration, headers."""

DTYPES = ("float32", "float16", "bfloat16")

_MISSING = object()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises
    ------
    UserError
        Missing, unreadable, or something else than an object.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON: {first_line(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds {type(content).__name__}, expected an object")
    return content


class ConfigSection:
    """A section of ``config.json`` whose missing or unsuitable fields are errors that name file and field.

    Parameters
    ----------
    where : str
        The file, and the section in it.
    values : dict
        The section's fields.
    """

    def __init__(self, where: str, values: dict[str, Any]) -> None:
        self.where, self.values = where, values

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def get(self, name: str, default: Any = _MISSING) -> Any:
        """A field; without ``default`` it has to be there."""
        value = self.values.get(name)
        if value is None and default is _MISSING:
            raise UserError(f"{self.where}{name} is missing")
        return default if value is None else value

    def section(self, name: str) -> ConfigSection:
        """A field that is an object."""
        values = self.get(name)
        if not isinstance(values, dict):
            raise UserError(f"{self.where}{name} is {values!r}, expected an object")
        return ConfigSection(f"{self.where}{name}.", values)

    def pick(self, *names: str) -> dict[str, Any]:
        """Those of the fields that are set."""
        return {name: self.values[name] for name in names if name in self}

    def expect(self, name: str, *known: Any, default: Any = _MISSING) -> Any:
        """A field that has to be one of ``known``."""
        value = self.get(name, default)
        if value not in known:
            raise UserError(f"{self.where}{name} is {value!r}, expected {' or '.join(map(repr, known))}")
        return value

    def number(self, name: str, default: Any = _MISSING) -> float:
        """A field that is a finite number."""
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{self.where}{name} is {value!r}, expected a number")
        return value

    def count(self, name: str, default: Any = _MISSING) -> int:
        """A field that is a positive integer."""
        value = self.get(name, default)
        if type(value) is not int or value < 1:
            raise UserError(f"{self.where}{name} is {value!r}, expected a positive integer")
        return value

    def text(self, name: str, default: Any = _MISSING) -> str:
        """A field that is text."""
        value = self.get(name, default)
        if value is not default and not isinstance(value, str):
            raise UserError(f"{self.where}{name} is {value!r}, expected text")
        return value

    def vision_layer(self, name: str, layers: int) -> int:
        """A field that chooses one of the hidden states of a tower of so many layers, its input among them."""
        value = self.get(name)
        if type(value) is not int or not -layers - 1 <= value <= layers:
            raise UserError(f"{self.where}{name} is {value!r}, expected {-layers - 1} to {layers}")
        return value

    def dtype(self) -> str | None:
        """``torch_dtype``, None where it is not said."""
        return self.expect("torch_dtype", *DTYPES, None, default=None)

    def architecture(self, *known: str) -> str:
        """The model's class name, the first of ``architectures``."""
        found = self.get("architectures", None)
        if not isinstance(found, list) or not found or found[0] not in known:
            raise UserError(f"{self.where}architectures is {found!r}, expected one of: {', '.join(known)}")
        return found[0]

    def build(self, make: Callable[..., Any], *things: Any, **fields: Any) -> Any:
        """A configuration or model of ``transformers``, made of this section's fields."""
        try:
            return make(*things, **fields)
        except (StrictDataclassError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{self.where.rstrip('.: ')}: no valid {make.__name__}: {reason}") from None


def read_config(folder: Path) -> ConfigSection:
    """``config.json`` of a checkpoint folder."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, expected the folder of a checkpoint")
    return ConfigSection(f"{folder / 'config.json'}: ", read_json(folder / "config.json"))


def check_destination(folder: Path, source: Path) -> None:
    """Refuse a destination that holds something, or would lie among the files of the source.

    Raises
    ------
    UserError
        A file, a folder that is not empty, or one inside ``source``.
    """
    need_empty(folder)
    if source.resolve() in folder.resolve().parents:
        raise UserError(f"{folder}: lies inside the source {source}, expected a folder elsewhere")


def check_disk(folder: Path, size: int) -> None:
    """Refuse a disk with less room than ``size`` bytes of weights need; ``folder`` need not exist yet.

    Raises
    ------
    UserError
        Too little space.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free, needed = shutil.disk_usage(there).free, size + SPARE_BYTES
    if free < needed:
        left = sorted(folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"))
        hint = f" ({left[0]} may be left from a conversion that was killed)" if left else ""
        message = f"{folder}: the converted model takes {needed / 1e9:.2f} GB, but {free / 1e9:.2f} GB are free{hint}"
        raise UserError(message)
