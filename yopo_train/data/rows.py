"""Reading question sets: local folders or Hub ids, memory-mapped, and checked before anything runs.

A row is ``{id, images, messages, kind}``; ``<image>`` in a message says where an image goes. A folder of images and
nothing else is a split to calibrate on.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset, get_dataset_split_names, load_dataset
from PIL import Image as PILImage
from torch.utils.data import Dataset as TorchDataset

from ..errors import UserError
from .checks import check_rows, image_file
from .image_folder import SPLIT, as_questions, image_files

COLUMNS = ("id", "images", "messages", "kind")


class Rows(TorchDataset):
    """The checked rows of one split. Rows are read from disk one by one and images decoded only then.

    Parameters
    ----------
    table : datasets.Dataset
        Memory-mapped rows in arrow format, in which images come as their bytes and paths.
    folder : Path
        What image paths of the rows are relative to.
    source : str
        Names the split in messages.
    """

    def __init__(self, table: Dataset, folder: Path, source: str) -> None:
        self.table, self.folder, self.source = table, folder, source

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``{id: str, kind: str, messages: list[dict], images: list[PIL.Image]}``, images in RGB."""
        row = self.table[index].to_pylist()[0]
        return {
            "id": str(row["id"]),
            "kind": row["kind"],
            "messages": row["messages"],
            "images": [self._open(image, row["id"], decode=True) for image in row["images"] or []],
        }

    @property
    def kinds(self) -> list[str]:
        """The question kinds that occur, sorted."""
        return sorted(self.table.select_columns("kind").unique("kind"))  # `unique` copies whatever columns there are

    def select(self, indices: Sequence[int]) -> Rows:
        """These rows only, in this order; nothing is copied."""
        return Rows(self.table.select(indices), self.folder, self.source)

    def sample(self, limit: int | None, seed: int) -> Rows:
        """At most `limit` rows, drawn by `seed`, in the order of the set. ``None`` is all."""
        if limit is None or limit >= len(self):
            return self
        drawn = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:limit]
        return self.select(drawn.sort().values.tolist())

    def fingerprint(self) -> str:
        """12 hex digits of all that the rows hold, images included, in the rows or in files of their own.

        Raises
        ------
        UserError
            An image file cannot be read.
        """
        digest = hashlib.sha256()
        for table in self.table:
            row = table.to_pylist()[0]
            digest.update(repr(row).encode())
            for image in row["images"] or []:
                name, data = _name_and_bytes(image)
                if data is None:
                    with self._naming(name, row["id"]):
                        digest.update(image_file(name, self.folder).read_bytes())
        return digest.hexdigest()[:12]

    def messages_and_sizes(self) -> Iterator[tuple[list[dict], list[tuple[int, int]]]]:
        """Each row's messages and its images' (height, width), from the files' headers only."""
        for table in self.table:
            row = table.to_pylist()[0]
            sizes = [self._open(image, row["id"]).size for image in row["images"] or []]
            yield row["messages"], [(height, width) for width, height in sizes]

    def _open(self, image: str | dict, row_id: Any, decode: bool = False) -> PILImage.Image:
        name, data = _name_and_bytes(image)
        with self._naming(name, row_id):
            if data is None:
                data = image_file(name, self.folder).read_bytes()
            opened = PILImage.open(io.BytesIO(data))
            return opened.convert("RGB") if decode else opened

    @contextmanager
    def _naming(self, image: str, row_id: Any) -> Iterator[None]:
        """Whatever is wrong with an image, as one line that names its row."""
        try:
            yield
        except (OSError, ValueError, PILImage.DecompressionBombError) as error:
            raise UserError(f"{self.source}, row {row_id!r}: {image} cannot be read as an image ({error})") from error


def _name_and_bytes(image: str | dict) -> tuple[str, bytes | None]:
    """What to call an image of a row, and its bytes; None where the name is the path of its file."""
    if isinstance(image, dict):
        return ("image", image["bytes"]) if image["bytes"] is not None else (str(image["path"]), None)
    return str(image), None


def load_rows(path: str | Path, split: str) -> Rows:
    """Open one split of a question set and check every row of it.

    Parameters
    ----------
    path : str or Path
        Local folder (files ``<split>-*.parquet``, images only, or whatever else ``datasets.load_dataset`` reads) or Hub
        id.
    split : str
        ``train``, ``calibration``, ``validation`` or ``test``.

    Raises
    ------
    UserError
        No such folder, split or column; no rows; a row whose ``<image>`` count differs from its images, whose roles
        or last message are not as expected, or whose image file does not exist.
    """
    source = f"{path}, split {split!r}"
    table = _as_rows(_load_table(str(path), split), source)
    check_rows(table, Path(path), source)
    return Rows(table, Path(path), source)


def has_split(path: str | Path, split: str) -> bool:
    """Whether the question set has such a split."""
    return split in _splits(str(path))


def _parquet_files(folder: Path) -> dict[str, list[str]]:
    """Split name -> files. ``load_dataset`` alone would silently overlook splits like ``calibration``."""
    files: dict[str, list[str]] = {}
    for file in sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")]):
        files.setdefault(file.stem.split("-")[0], []).append(str(file))
    return files


def _splits(path: str) -> list[str]:
    folder = Path(path)
    if folder.is_dir() and (files := _parquet_files(folder)):
        return list(files)
    if folder.is_dir() and image_files(folder):
        return [SPLIT]
    # A typing error in a local path would otherwise be looked up on the Hub for half a minute.
    if not folder.is_dir() and (len(folder.parts) != 2 or Path(folder.parts[0]).is_dir()):
        raise UserError(f"data.path: the folder {path!r} does not exist")
    with _one_line_errors(repr(path)):
        return get_dataset_split_names(path)


def _load_table(path: str, split: str) -> Dataset:
    splits = _splits(path)
    if split not in splits:
        raise UserError(f"{path}: there is no split {split!r}; found: {', '.join(splits)}")
    files = _parquet_files(Path(path)) if Path(path).is_dir() else {}
    if not files and Path(path).is_dir() and (names := image_files(Path(path))):
        return as_questions(names)
    with _one_line_errors(f"split {split!r} of {path!r}"):
        if files and not sum(pq.read_metadata(file).num_rows for file in files[split]):
            raise UserError(f"{path}: split {split!r} is empty, expected rows")
        if files:
            return load_dataset("parquet", data_files={split: files[split]}, split=split)
        return load_dataset(path, split=split)


@contextmanager
def _one_line_errors(source: str) -> Iterator[None]:
    """The library raises a dozen different errors for a wrong path, no network, a corrupt file or a file of no rows."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "corresponds to no data" in reason:  # how the library says that
            reason = "it has no rows"
        raise UserError(f"data.path: cannot read {source} ({reason})") from error


def _as_rows(table: Dataset, source: str) -> Dataset:
    """Only the columns of a row, nothing decoded and nothing copied."""
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise UserError(f"{source}: no column {', '.join(missing)}; found: {', '.join(table.column_names)}")
    table = table.select_columns(list(COLUMNS)).with_format("arrow")
    types = {field.name: field.type for field in table.features.arrow_schema}
    image, message = _item(types["images"]), _item(types["messages"])
    if image not in (pa.string(), pa.large_string(), pa.null()) and not _has_fields(image, "bytes", "path"):
        raise UserError(f"{source}: column images is {types['images']}, expected a list of images or of paths")
    if not _has_fields(message, "role", "content"):
        raise UserError(f"{source}: column messages is {types['messages']}, expected a list of {{role, content}}")
    if types["kind"] not in (pa.string(), pa.large_string()):
        raise UserError(f"{source}: column kind is {types['kind']}, expected text")
    return table


def _item(kind: pa.DataType) -> pa.DataType | None:
    """What a list type is a list of."""
    return kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else None


def _has_fields(kind: pa.DataType | None, *names: str) -> bool:
    return kind is not None and pa.types.is_struct(kind) and set(names) <= {field.name for field in kind}
