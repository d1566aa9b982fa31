"""Local paths in what is published: found, and replaced by the name at their end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_BEFORE = r"(?<![\w.:/<~\\])"
_REST = r"[^\s'\"`,;()\[\]{}<>|]*"
_PLACES = r"file://|~[\w.-]*/|(?:\.\./)+|[A-Za-z]:[\\/](?=[\w.@-])"
PATH = re.compile(rf"{_BEFORE}(?:{_PLACES}|/(?=[\w.@-]+/)){_REST}")
"""A path inside a longer text: from the root (two names at least), the home, a folder above, or a drive."""
WHOLE = re.compile(rf"(?:{_PLACES}|/(?=[\w.@-])).*", re.DOTALL)
"""A text that is nothing but a path, spaces in it included."""


def scrub(value: Any) -> Any:
    """A copy of plain data without local paths: of each the last name stays. Relative paths stay as they are."""
    if isinstance(value, dict):
        return {scrub(key): scrub(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [scrub(item) for item in value]
    if not isinstance(value, str):
        return value
    if WHOLE.fullmatch(value):
        return last_name(value)
    return PATH.sub(lambda path: last_name(path[0]), value)


def last_name(path: str) -> str:
    """What a file or folder is called: the end of its path."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def local_paths(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Local paths in plain data, each with the dotted key where it stands."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from local_paths(key, place)
            yield from local_paths(item, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from local_paths(item, place)
    elif isinstance(value, str):
        whole = WHOLE.fullmatch(value)
        for path in [whole] if whole else PATH.finditer(value):
            yield place, path[0]
