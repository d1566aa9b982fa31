"""What preparing a large set leaves behind, so that the next start finds it: beside the files that `datasets` keeps."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from filelock import FileLock

from ..errors import UserError

KEPT_FROM = 10_000
"""Rows from which on results are kept; what is smaller is faster done again than found to be unchanged."""


def key_of(*parts: Any) -> str:
    """20 hex digits that stand for these values."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:20]


def stamp(file: str | Path) -> tuple[str, int, int]:
    """A file's path, size and time of its last change."""
    found = os.stat(file)
    return os.path.realpath(file), found.st_size, found.st_mtime_ns


@contextmanager
def kept_file(name: str) -> Iterator[Path]:
    """The path of a kept file, which need not exist yet; one process at a time is within the block.

    Raises
    ------
    UserError
        The folder of kept files cannot be written.
    """
    path = Path(datasets.config.HF_DATASETS_CACHE) / "yopo_train" / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock")
        lock.acquire()
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error} (HF_DATASETS_CACHE)") from None
    try:
        yield path
    finally:
        lock.release()
