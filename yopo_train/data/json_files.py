"""JSON question sets: a list in one file, or an object a line, read as a stream and kept memory-mapped.

`datasets` would read a list whole (a million rows are gigabytes of Python objects), and refuse rows whose types differ,
like LLaVA's own: ``image`` a text here and a list there, ``id`` a number here and a text there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
from datasets import Dataset

from ..errors import UserError
from ..run_folder import new_file
from .cache import kept_file, key_of, stamp
from .formats import RowError, as_row, row_id

SUFFIXES = (".json", ".jsonl")
VERSION = 1
"""Of what is kept; to be raised with every change of `formats`."""
CHUNK, LONGEST = 2**20, 2**26
"""Characters read at a time, and of the longest row."""
BATCH = 1000
BETWEEN = re.compile(r"[\s,]*")
TEXT = pa.string()
SCHEMA = pa.schema(
    {
        "id": TEXT,
        "kind": TEXT,
        "messages": pa.list_(pa.struct({"role": TEXT, "content": TEXT})),
        "images": pa.list_(pa.struct({"bytes": pa.binary(), "path": TEXT})),
        "place": TEXT,
        "problem": TEXT,
        "fault": TEXT,
    }
)
"""A row, the file and line that it comes from, and, instead of its messages, what is wrong with it."""


def read_json(files: list[str]) -> Dataset:
    """The rows of these files, one file after the other, memory-mapped.

    Raises
    ------
    UserError
        A file is missing, is no UTF-8 text, or is a list that is no JSON. A line that is none is a bad row.
    """
    with kept_file(f"{key_of('json', VERSION, [stamp(file) for file in files])}.arrow") as path:
        if not path.is_file():
            with new_file(path) as temporary, pa.OSFile(str(temporary), "wb") as sink:
                _write(files, sink)
        return Dataset.from_file(str(path))


def _write(files: list[str], sink: pa.NativeFile) -> None:
    rows = (row for file in files for row in _rows(file))
    with pa.ipc.new_stream(sink, SCHEMA) as stream:
        while batch := list(islice(rows, BATCH)):
            stream.write_batch(pa.RecordBatch.from_pylist(batch, schema=SCHEMA))


def _rows(file: str) -> Iterator[dict[str, Any]]:
    """The file's rows, each by the columns of `SCHEMA`."""
    for number, (place, entry) in enumerate(_entries(file)):
        row_name, empty = str(number), {"kind": "", "messages": [], "images": []}
        try:
            if isinstance(entry, RowError):
                raise entry
            row_name = row_id(entry, number)
            row = as_row({name: value for name, value in entry.items() if name not in ("problem", "fault")}, number)
            images = [{"bytes": None, "path": image} if isinstance(image, str) else image for image in row["images"]]
            yield row | {"images": images, "place": place, "problem": None, "fault": None}
        except RowError as error:
            yield {"id": row_name, **empty, "place": place, "problem": error.message, "fault": error.fault}


def _entries(file: str) -> Iterator[tuple[str, dict | RowError]]:
    """Each entry with its place in the file."""
    try:
        with open(file, encoding="utf-8-sig") as opened:
            start = opened.read(CHUNK).lstrip()
            opened.seek(0)
            yield from _list_entries(file, opened) if start.startswith("[") else _lines(file, opened)
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def _lines(file: str, opened: TextIO) -> Iterator[tuple[str, dict | RowError]]:
    for number, line in enumerate(opened, start=1):
        if line.strip():
            try:
                entry = _as_object(json.loads(line))
            except ValueError as error:
                entry = RowError("not JSON", f"the line is not JSON ({error})")
            yield f"{file}:{number}", entry


def _list_entries(file: str, opened: TextIO) -> Iterator[tuple[str, dict | RowError]]:
    """Entries of one JSON list, which is never held whole."""
    decoder, text, number = json.JSONDecoder(), opened.read(CHUNK), 0
    position = text.index("[") + 1
    while True:
        position = BETWEEN.match(text, position).end()
        if text.startswith("]", position):
            return
        try:
            value, end = decoder.raw_decode(text, position)
        except ValueError as error:  # an entry that goes on behind what was read, or no JSON
            rest = text[position:]
            more = opened.read(max(CHUNK, len(rest))) if len(rest) <= LONGEST else ""
            if not more:
                raise UserError(f"{file}, entry {number}: not JSON ({error})") from None
            text, position = rest + more, 0
            continue
        yield f"{file}, entry {number}", _as_object(value)
        number, position = number + 1, end


def _as_object(value: Any) -> dict | RowError:
    return value if isinstance(value, dict) else RowError("not an object", f"the row is {value!r}, expected an object")


def json_splits(folder: Path, names: dict[str, str]) -> dict[str, list[str]]:
    """Split name -> files of a folder whose name begins with one of ``names``, which gives the split."""
    files: dict[str, list[str]] = {}
    for file in sorted(file for suffix in SUFFIXES for file in folder.glob(f"*{suffix}")):
        if (split := names.get(file.stem.split("-")[0])) is not None:
            files.setdefault(split, []).append(str(file))
    return files
