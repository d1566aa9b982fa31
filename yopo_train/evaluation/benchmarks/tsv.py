"""Tab-separated tables as `pandas.read_table` reads them, except that large fields stay in the file."""

from __future__ import annotations

import mmap
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from ...errors import UserError

_FIELD = re.compile(rb'(?:"([^"]*(?:""[^"]*)*)"|([^\t\r\n]*))(\t|\r\n|\n|\r|\Z)')
_NOT_AVAILABLE = frozenset((
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
))  # fmt: skip
"""What pandas reads as a missing value."""


def read_tsv(path: Path, spans: Collection[str] = ()) -> Iterator[tuple[str, dict[str, str | tuple[int, int] | None]]]:
    """``(where, row)`` of each row; a missing value is None.

    Parameters
    ----------
    path : Path
        UTF-8, its first line the names of the columns. A field in double quotes may hold tabs and line ends, and a
        doubled quote for one.
    spans : collection of str
        Columns whose values come as their place ``(start, stop)`` in the file, in bytes, instead of as text.

    Raises
    ------
    UserError
        The file is empty, a row has more or fewer fields than columns, or a quoted field does not end.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            rows = _rows(path, data)
            names = [_text(path, data, span) or "" for span in next(rows)[1]]
            for number, fields in rows:
                where = f"{path}, row {number}"
                if len(fields) != len(names):
                    raise UserError(f"{where}: {len(fields)} fields, expected {len(names)} ({', '.join(names)})")
                yield (
                    where,
                    {
                        name: span[:2] if name in spans and span[0] < span[1] else _text(where, data, span)
                        for name, span in zip(names, fields, strict=True)
                    },
                )
    except (OSError, ValueError) as error:  # a file of no bytes cannot be mapped: ValueError
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read as a table ({error})") from error


def _rows(path: Path, data: mmap.mmap) -> Iterator[tuple[int, list[tuple[int, int, bool]]]]:
    """Number (from 0 for the header) and fields ``(start, stop, quoted)`` of each row that is not empty."""
    position, number = 3 if data[:3] == b"\xef\xbb\xbf" else 0, 0
    fields: list[tuple[int, int, bool]] = []
    while position < len(data) or fields:
        match = _FIELD.match(data, position)
        quoted = match is not None and match.group(1) is not None
        if match is None or (not quoted and data[position : position + 1] == b'"'):
            raise UserError(f"{path}, row {number}: field {len(fields) + 1} begins with a quote that does not end")
        fields.append((*match.span(1 if quoted else 2), quoted))
        position = match.end()
        if match.group(3) != b"\t":
            if len(fields) > 1 or fields[0][0] < fields[0][1]:
                yield number, fields
                number += 1
            fields = []


def _text(where: object, data: mmap.mmap, span: tuple[int, int, bool]) -> str | None:
    start, stop, quoted = span
    try:
        text = data[start:stop].decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 ({error})") from error
    return None if text in _NOT_AVAILABLE else text.replace('""', '"') if quoted else text
