"""A row of a benchmark's data, wherever it came from: fields by the hub's column names, errors that name the row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import UserError
from .pictures import Picture


@dataclass(frozen=True, slots=True)
class Record:
    """One row.

    Attributes
    ----------
    values : Mapping
        Fields by the names of the hub's columns.
    where : str
        File and row, for messages.
    picture : Picture, optional
        Its image.
    prompt : str, optional
        The user's text as LLaVA's own question file has it.
    """

    values: Mapping[str, Any]
    where: str
    picture: Picture | None = None
    prompt: str | None = None

    def get(self, name: str) -> Any:
        """A field that may be missing: None then."""
        return self.values.get(name)

    def text(self, name: str) -> str:
        """A field that must be text."""
        value = self.values.get(name)
        if not isinstance(value, str):
            raise self.error(name, f"found {value!r}, expected text")
        return value

    def number(self, name: str) -> int:
        """A field that must be a whole number; digits as text count."""
        value = self.values.get(name)
        try:
            if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
                raise ValueError
            return int(value)
        except (TypeError, ValueError):
            raise self.error(name, f"found {value!r}, expected a whole number") from None

    def key(self, name: str) -> str:
        """A field that names the row: text or a whole number, as text."""
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
            raise self.error(name, f"found {value!r}, expected an id")
        return str(value)

    def texts(self, name: str) -> list[str]:
        """A field that must be a list of text."""
        value = self.values.get(name)
        if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
            raise self.error(name, f"found {value!r}, expected a list of text")
        return value

    def error(self, name: str, problem: str) -> UserError:
        """The error to raise about a field."""
        return UserError(f"{self.where}, field {name}: {problem}")
