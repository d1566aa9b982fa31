"""Reading official raw files, with errors that name file, row and field."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ...errors import UserError
from .pictures import FilePicture, MissingPicture


def read_text(path: Path) -> str:
    """A file's text, without a byte order mark."""
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from error


def read_json(path: Path, expected: type = dict, hook: Callable[[list], dict] | None = None) -> Any:
    """A JSON file whose outermost value is an object (`dict`) or an array (`list`).

    Raises
    ------
    UserError
        It is no JSON, or something else.
    """
    try:
        value = json.loads(read_text(path), object_pairs_hook=hook)
    except ValueError as error:
        raise UserError(f"{path}: invalid JSON ({error})") from error
    if not isinstance(value, expected):
        kinds = {dict: "an object", list: "an array"}
        raise UserError(f"{path}: found {type(value).__name__}, expected {kinds[expected]}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return made


def keyed_rows(path: Path) -> dict[str, dict]:
    """A JSON file that is an object of objects by their id.

    Raises
    ------
    UserError
        It is none, or an id comes twice: Python would take the last one in silence.
    """
    rows = read_json(path, hook=_unique)
    for name, row in rows.items():
        if not isinstance(row, dict):
            raise UserError(f"{path}, {name!r}: found {type(row).__name__}, expected an object")
    return rows


def json_rows(path: Path, field: str) -> list[dict]:
    """The list of objects under a JSON file's `field`."""
    rows = read_json(path).get(field)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}, field {field}: found {type(rows).__name__}, expected a list of objects")
    return rows


def read_json_lines(path: Path) -> Iterator[tuple[str, dict]]:
    """``(where, object)`` of each line that is not empty.

    Raises
    ------
    UserError
        A line is no JSON object.
    """
    for number, line in enumerate(read_text(path).split("\n"), 1):  # not splitlines(): text may hold others of Unicode
        if line.strip():
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"{where}: invalid JSON ({error})") from error
            if not isinstance(row, dict):
                raise UserError(f"{where}: found {type(row).__name__}, expected an object")
            yield where, row


def first_file(folder: Path, *names: str) -> Path | None:
    """The first of these files (patterns, relative to `folder`) that exists."""
    for name in names:
        if found := sorted(file for file in folder.glob(name) if file.is_file()):
            return found[0]
    return None


def needed_file(folder: Path, *names: str) -> Path:
    """As `first_file`, but one of them must exist."""
    found = first_file(folder, *names)
    if found is None:
        raise UserError(f"{folder}: none of its official files is there; expected {' or '.join(names)}")
    return found


class ImageFolders:
    """Finds image files by name in those of some folders that exist.

    Parameters
    ----------
    root : Path
        What the names of the folders are relative to.
    *names : str
        Folders, the likeliest first; ``.`` is `root` itself.
    """

    def __init__(self, root: Path, *names: str) -> None:
        self.root, self.names = root, names
        self.folders = [root / name for name in names if (root / name).is_dir()]
        self._found: dict[str, str] = {}

    def picture(self, name: str | Sequence[str], where: str) -> FilePicture | MissingPicture:
        """The image file of this name, or of the first of several that exists."""
        names = [name] if isinstance(name, str) else name
        if names[0] not in self._found:
            paths = (folder / each for folder in self.folders for each in names)
            path = next((path for path in paths if path.is_file()), None)
            if path is None:
                return MissingPicture(names[0], where, ", ".join(str(self.root / folder) for folder in self.names))
            self._found[names[0]] = str(path)
        return FilePicture(self._found[names[0]], where)
