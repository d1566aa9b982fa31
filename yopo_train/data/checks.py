"""The checks that every row of a question set passes before anything runs."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import UserError
from ..run_folder import new_file
from .cache import KEPT_FROM, kept_file, key_of
from .conversation import IMAGE_PLACEHOLDER
from .formats import RowError, answerable, as_row, row_id
from .images import image_file
from .sources import Source

ROLES = ("system", "user", "assistant")
VERSION = 2
"""Of the checks; what an older version found is found again."""


@dataclass
class BadRow:
    """A row that cannot be used: its number in the set, the kind of fault, and all of it in one line."""

    number: int
    fault: str
    message: str


@dataclass
class Findings:
    """What the checks of one split found.

    Parameters
    ----------
    name
        Of the split.
    size
        Rows checked.
    images
        Images that they name or hold.
    bad
        Those that cannot be used, in order.
    lacking
        Numbers of rows without their last answer, where `Source.unanswered` lets them.
    """

    name: str
    size: int
    images: int
    bad: list[BadRow]
    lacking: list[int] = field(default_factory=list)

    def good(self) -> np.ndarray | None:
        """Numbers of the rows that can be used; None for all of them."""
        if not self.bad:
            return None
        kept = np.ones(self.size, dtype=bool)
        kept[[row.number for row in self.bad]] = False
        return np.flatnonzero(kept)

    def refuse(self) -> None:
        """Raise a ``UserError`` that names the first bad row."""
        if self.bad:
            raise UserError(self.bad[0].message)

    def counts(self) -> dict[str, int]:
        """How many rows have which fault, the most frequent first."""
        return dict(Counter(row.fault for row in self.bad).most_common())

    def summary(self) -> str:
        """One line: how many rows are bad, and why."""
        faults = ", ".join(f"{fault} ({number})" for fault, number in self.counts().items())
        return f"{self.name}: skipped {len(self.bad)} of {self.size} rows: {faults}; the first: {self.bad[0].message}"


def find_bad_rows(source: Source) -> Findings:
    """Walk over all rows without reading image bytes.

    What is found in a large set is kept, and holds until the set, or a folder that its images lie in, changes.
    """
    key = source.key
    if len(source) < KEPT_FROM or key is None:
        return _walk(source)[0]
    about = ("checks", VERSION, key, str(source.folder.resolve()), source.unanswered)
    with kept_file(f"{key_of(*about)}.checks.json") as path:
        if path.is_file():
            kept = json.loads(path.read_text("utf-8"))
            if all(_changed(folder) == when for folder, when in kept.pop("folders").items()):
                return Findings(source.name, len(source), **kept | {"bad": [BadRow(*row) for row in kept["bad"]]})
        findings, folders = _walk(source)
        kept = {"images": findings.images, "folders": folders, "lacking": findings.lacking}
        with new_file(path) as temporary:
            temporary.write_text(json.dumps(kept | {"bad": [astuple(row) for row in findings.bad]}), "utf-8")
        return findings


def _walk(source: Source) -> tuple[Findings, dict[str, int]]:
    """What is wrong, and when the folders of the images changed last (nanoseconds)."""
    files, found, number = _Files(source.folder), Findings(source.name, len(source), 0, []), 0
    for batch in source.table.iter(batch_size=1000):
        for raw in without_bytes(batch).to_pylist():
            try:
                row = as_row(raw, number)
                row = answerable(row) if source.unanswered else row
                found.images += len(row["images"])
                check_row(row, files)
                if source.unanswered and not row["messages"][-1]["content"].strip():
                    found.lacking.append(number)
            except RowError as error:
                where = source.where(number, row_id(raw, number), raw.get("place"))
                found.bad.append(BadRow(number, error.fault, f"{where}: {error}"))
            number += 1
    return found, files.folders


def check_row(row: dict[str, Any], files: _Files) -> None:
    """Raise a `RowError` for what is wrong with a converted row."""
    messages = row["messages"]
    if not messages or messages[-1]["role"] != "assistant":
        raise RowError("no answer", "the last message must be the assistant's answer")
    placeholders = 0
    for message in messages:
        role, found = message["role"], message["content"].count(IMAGE_PLACEHOLDER)
        if role not in ROLES:
            raise RowError("unknown role", f"unknown role {role!r}, expected one of: {', '.join(ROLES)}")
        if found and role != "user":
            raise RowError("image outside a question", f"{IMAGE_PLACEHOLDER} stands in a message of the {role}")
        placeholders += found
    if placeholders != len(row["images"]):
        message = f"{placeholders} {IMAGE_PLACEHOLDER} placeholders but {len(row['images'])} images"
        raise RowError("images do not fit placeholders", message)
    for image in row["images"]:
        if isinstance(image, str) and image not in files:
            raise RowError("image is missing", f"the image {image!r} does not exist in {files.folder}")


class _Files:
    """Which image files exist, each asked once; and when their folders changed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.folders = folder, {}
        self._known: dict[str, bool] = {}

    def __contains__(self, name: str) -> bool:
        if name not in self._known:
            file = image_file(name, self.folder)
            self.folders.setdefault(str(file.parent), _changed(file.parent))
            if len(self._known) >= 2**16:  # a million names are not to be held
                self._known.clear()
            self._known[name] = bool(name) and file.is_file()
        return self._known[name]


def _changed(folder: str | Path) -> int | None:
    try:
        return Path(folder).stat().st_mtime_ns
    except OSError:
        return None


def without_bytes(batch: pa.Table) -> pa.Table:
    """The table with lengths of bytes in place of the bytes, which are then not read."""
    chunks = (c.chunk(0) if c.num_chunks == 1 else c.combine_chunks() for c in batch.columns)  # one is not copied
    columns = [_light(chunk) for chunk in chunks]
    return pa.Table.from_arrays(columns, names=batch.column_names)


def _light(array: pa.Array) -> pa.Array:
    kind = array.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return pc.binary_length(array)
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        return pa.StructArray.from_arrays([_light(part) for part in array.flatten()], names=names, mask=array.is_null())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        ends = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        return pa.ListArray.from_arrays(ends, _light(pc.list_flatten(array)), mask=array.is_null())
    return array
