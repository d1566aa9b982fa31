"""Where a question set's rows lie: files, folders or Hub ids, opened memory-mapped, with nothing copied or decoded."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, get_dataset_split_names, load_dataset, load_from_disk

from ..errors import UserError, first_line
from .cache import key_of, stamp
from .formats import IMAGES, KNOWN, TURNS
from .image_folder import SPLIT, as_questions, image_files
from .json_files import SUFFIXES, json_splits, read_json

NAMES = {"train": "train", "calibration": "calibration", "test": "test"}
NAMES |= dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
"""What names of JSON files begin with, and the split that they are."""


@dataclass
class Source:
    """One split of one question set, as it is stored.

    Parameters
    ----------
    table
        Memory-mapped rows in arrow format, images as their bytes and paths.
    folder
        What image paths are relative to.
    path, split
        Where it was opened.
    files
        Parquet files and how many rows each has, to name the one that a row is in.
    unanswered
        Whether rows may lack their last answer.
    lacking
        Numbers of those that do, once they are checked.
    """

    table: Dataset
    folder: Path
    path: str
    split: str
    files: tuple[tuple[str, int], ...] = ()
    unanswered: bool = False
    lacking: Sequence[int] = ()

    def __post_init__(self) -> None:
        self.name = f"{self.path}, split {self.split!r}"
        self._ends = list(accumulate(size for _, size in self.files))

    def __len__(self) -> int:
        return len(self.table)

    def raw(self, number: int) -> dict[str, Any]:
        """A row as it is stored."""
        return self.table[number].to_pylist()[0]

    def where(self, number: int, row_id: str, place: str | None = None) -> str:
        """A row's file, split and id, for messages."""
        if place is None:
            found = bisect_right(self._ends, number)
            place = self.files[found][0] if found < len(self.files) else self.path
        return f"{place}, split {self.split!r}, row {row_id!r}"

    @property
    def key(self) -> str | None:
        """Stands for the stored rows; None where they are not stored."""
        files = [file["filename"] for file in self.table.cache_files]
        return key_of(len(self), [stamp(file) for file in files]) if files else None


def open_source(path: str | Path, split: str, image_root: str | None = None, subset: str | None = None) -> Source:
    """Open one split.

    Parameters
    ----------
    path
        A ``.parquet``, ``.json`` or ``.jsonl`` file, which is the split train; a folder of files ``<split>-*.parquet``
        or ``<split>*.jsonl`` (``.json``), a ``save_to_disk`` folder, a folder of images only, whatever else
        ``datasets.load_dataset`` reads, or a Hub id.
    image_root
        What image paths are relative to; the folder of the set unless given.
    subset
        Configuration of a Hub set that has several.

    Raises
    ------
    UserError
        No such file, folder or split; no rows; no messages in it, or columns of another type.
    """
    files, splits = _find(str(path), subset)
    if split not in splits:
        raise UserError(f"{path}: there is no split {split!r}; found: {', '.join(splits)}")
    with _one_line_errors(f"split {split!r} of {str(path)!r}"):
        table, sizes = _open_table(str(path), split, files.get(split), subset)
    if not len(table):
        raise UserError(f"{path}: split {split!r} is empty, expected rows")
    folder = Path(path).parent if Path(path).is_file() else Path(path)
    if image_root is not None:
        folder = Path(image_root)
        if not folder.is_dir():
            raise UserError(f"data.image_root: the folder {image_root!r} does not exist")
    source = Source(table, folder, str(path), split, sizes)
    source.table = _known_columns(table, source.name)
    return source


def has_split(path: str | Path, split: str, subset: str | None = None) -> bool:
    """Whether the question set has such a split."""
    return split in _find(str(path), subset)[1]


def _find(path: str, subset: str | None) -> tuple[dict[str, list[str]], list[str]]:
    """The files of each split where they are ours to read, and the names of the splits."""
    place = Path(path)
    if place.is_file():
        if place.suffix not in (*SUFFIXES, ".parquet"):
            raise UserError(f"data.path: {path!r} is a {place.suffix or 'nameless'} file, expected .parquet or .jsonl")
        return {"train": [path]}, ["train"]
    if place.is_dir():
        files = _parquet_files(place) or json_splits(place, NAMES)
        return files, list(files) or _folder_splits(path, subset)
    # A typing error in a local path would otherwise be looked up on the Hub for half a minute.
    if len(place.parts) != 2 or Path(place.parts[0]).is_dir() or place.suffix in (*SUFFIXES, ".parquet"):
        raise UserError(f"data.path: the folder {path!r} does not exist")
    return {}, _asked_splits(path, subset)


def _folder_splits(path: str, subset: str | None) -> list[str]:
    saved = Path(path) / "dataset_dict.json"
    if saved.is_file():
        with _one_line_errors(repr(path)):
            return json.loads(saved.read_text("utf-8"))["splits"]
    if _is_saved(Path(path)):
        return ["train"]
    return [SPLIT] if image_files(Path(path)) else _asked_splits(path, subset)


def _asked_splits(path: str, subset: str | None) -> list[str]:
    with _one_line_errors(repr(path)):
        return get_dataset_split_names(path, *([subset] if subset else []))


def _is_saved(folder: Path) -> bool:
    """Whether ``Dataset.save_to_disk`` wrote it."""
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


def _parquet_files(folder: Path) -> dict[str, list[str]]:
    """Split name -> files. ``load_dataset`` alone would silently overlook splits like ``calibration``."""
    files: dict[str, list[str]] = {}
    for file in sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")]):
        files.setdefault(file.stem.split("-")[0], []).append(str(file))
    return files


def _open_table(
    path: str, split: str, files: list[str] | None, subset: str | None
) -> tuple[Dataset, tuple[tuple[str, int], ...]]:
    """The table, and its parquet files with their sizes."""
    if files and files[0].endswith(".parquet"):
        sizes = tuple((file, pq.read_metadata(file).num_rows) for file in files)
        if not sum(size for _, size in sizes):
            raise UserError(f"{path}: split {split!r} is empty, expected rows")
        return load_dataset("parquet", data_files={split: files}, split=split), sizes
    if files:
        return read_json(files), ()
    folder = Path(path)
    if folder.is_dir() and ((folder / "dataset_dict.json").is_file() or _is_saved(folder)):
        return load_from_disk(path if _is_saved(folder) else str(folder / split)), ()
    if folder.is_dir() and (names := image_files(folder)):
        return as_questions(names), ()
    return load_dataset(path, *([subset] if subset else []), split=split), ()


@contextmanager
def _one_line_errors(source: str) -> Iterator[None]:
    """The library raises a dozen different errors for a wrong path, no network, a corrupt file or a file of no rows."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = first_line(error)
        if "corresponds to no data" in reason:  # how the library says that
            reason = "it has no rows"
        raise UserError(f"data.path: cannot read {source} ({reason})") from error


def _known_columns(table: Dataset, source: str) -> Dataset:
    """Only the columns that are read, nothing decoded and nothing copied."""
    names, found = [name for name in KNOWN if name in table.column_names], ", ".join(table.column_names)
    if not any(name in names for name in TURNS):
        raise UserError(f"{source}: no column messages or conversations; found: {found}")
    table = table.select_columns(names).with_format("arrow")
    types = {field.name: field.type for field in table.features.arrow_schema}
    for name in IMAGES:
        image = _item(types.get(name)) or types.get(name)
        if image is not None and not _is_text(image) and not _has_fields(image, "bytes", "path"):
            raise UserError(f"{source}: column {name} is {types[name]}, expected a list of images or of paths")
    for name in TURNS:
        turn = _item(types.get(name)) or types.get(name)
        if turn is not None and not (_has_fields(turn, "role", "content") or _has_fields(turn, "from", "value")):
            raise UserError(f"{source}: column {name} is {types[name]}, expected a list of {{role, content}}")
    if "kind" in types and not _is_text(types["kind"]):
        raise UserError(f"{source}: column kind is {types['kind']}, expected text")
    return table


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.null())


def _item(kind: pa.DataType | None) -> pa.DataType | None:
    """What a list type is a list of."""
    return kind.value_type if kind is not None and (pa.types.is_list(kind) or pa.types.is_large_list(kind)) else None


def _has_fields(kind: pa.DataType, *names: str) -> bool:
    return pa.types.is_struct(kind) and set(names) <= {field.name for field in kind}
