"""A benchmark as the hub has it: by id, or a local copy of the same columns (parquet, or written by `save_to_disk`)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Image, load_dataset, load_from_disk

from ...errors import UserError, first_line
from .pictures import TablePicture
from .records import Record

DEFAULT_CONFIG = "default"
_BATCH = 10_000


def is_table(path: Path) -> bool:
    """Whether a local path holds tables rather than a benchmark's official raw files."""
    if path.is_file():
        return path.suffix == ".parquet"
    marks = ("*.parquet", "*/*.parquet", "dataset_dict.json", "*/dataset_dict.json", "state.json", "*/state.json")
    return any(next(path.glob(mark), None) for mark in marks)


def read_table(source: str, config: str, split: str, columns: Collection[str]) -> list[Record]:
    """The rows of one split, their images left where they are.

    Parameters
    ----------
    source : str
        Local folder or file, or hub id.
    config, split : str
        Names on the hub. A local folder may hold the config as a subfolder, as the hub's repositories do, or be it.
    columns : collection of str
        Columns that must be there; others come along.

    Raises
    ------
    UserError
        It cannot be read, has no such split, no such column, or images that are none.
    """
    table = load_table(source, config, split)
    where = f"{source}, {'' if config == DEFAULT_CONFIG else f'config {config!r}, '}split {split!r}"
    if missing := [name for name in columns if name not in table.column_names]:
        found = ", ".join(table.column_names)
        raise UserError(f"{where}: no column {', '.join(missing)}; found: {found}; expected: {', '.join(columns)}")
    images = table.with_format("arrow").select_columns("image") if "image" in table.column_names else None
    with_image = _has_image(images, where) if images is not None else None
    plain = table.with_format("arrow").select_columns([name for name in table.column_names if name != "image"])
    records = []
    for start in range(0, len(plain), _BATCH):
        for i, values in enumerate(plain[start : start + _BATCH].to_pylist(), start):
            picture = TablePicture(images, i, where) if with_image is not None and with_image[i] else None
            records.append(Record(values, f"{where}, row {i}", picture))
    return records


def load_table(source: str, config: str, split: str) -> Dataset:
    """One split of a hub id, or of a local folder of any of the usual layouts."""
    path = Path(source)
    with _one_line_errors(source, split):
        if path.is_file():
            return load_dataset("parquet", data_files={split: str(path)}, split=split)
        if not path.is_dir():
            return load_dataset(source, *_config(config), split=split)
        folder = path / config if (path / config).is_dir() else path
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            return _of_split(load_from_disk(str(folder)), folder, split)
        files: dict[str, list[str]] = {}
        for file in sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")]):
            files.setdefault(file.stem.split("-")[0], []).append(str(file))
        if files:
            if split not in files:
                raise UserError(f"{folder}: there is no split {split!r}; found: {', '.join(files)}")
            return load_dataset("parquet", data_files={split: files[split]}, split=split)
        return load_dataset(source, *_config(config), split=split)


def _config(config: str) -> list[str]:
    return [] if config == DEFAULT_CONFIG else [config]


def _of_split(saved: Dataset | DatasetDict, folder: Path, split: str) -> Dataset:
    if isinstance(saved, Dataset):
        return saved
    if split not in saved:
        raise UserError(f"{folder}: there is no split {split!r}; found: {', '.join(saved)}")
    return saved[split]


def _has_image(images: Dataset, where: str) -> list[bool]:
    """Which rows have an image, from the column's validity alone: no image is read."""
    kind = images.features["image"]
    if not isinstance(kind, Image) and not (isinstance(kind, dict) and {"bytes", "path"} <= set(kind)):
        raise UserError(f"{where}, field image: found a column of {kind}, expected images")
    there: list[bool] = []
    for table in _batches(images):
        cells = table.column("image").combine_chunks()
        cells = cells.storage if isinstance(cells, pa.ExtensionArray) else cells
        filled = pc.or_(pc.is_valid(pc.struct_field(cells, "bytes")), pc.is_valid(pc.struct_field(cells, "path")))
        there += pc.and_(pc.is_valid(cells), filled).to_pylist()
    return there


def _batches(table: Dataset) -> Iterator[pa.Table]:
    for start in range(0, len(table), _BATCH):
        yield table[start : start + _BATCH]


@contextmanager
def _one_line_errors(source: str, split: str) -> Iterator[None]:
    """The library raises a dozen different errors for a wrong id, no network, a corrupt file or an unknown split."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = first_line(error)
        expected = "expected a hub id, a local folder of `datasets` or the official raw files"
        raise UserError(f"{source}, split {split!r}: cannot be read ({reason}); {expected}") from error
