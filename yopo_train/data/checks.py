"""The checks that every row of a question set passes before anything runs."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from ..errors import UserError
from .conversation import IMAGE_PLACEHOLDER

ROLES = ("system", "user", "assistant")


def image_file(name: str, folder: Path) -> Path:
    """Where an image lies that a row names by its path, relative to the folder of the set."""
    return Path(name) if Path(name).is_absolute() else folder / name


def check_rows(table: Dataset, folder: Path, source: str) -> None:
    """Walk over all rows without reading image bytes.

    Parameters
    ----------
    table : Dataset
        Rows ``{id, images, messages, kind}`` in arrow format.
    folder : Path
        What image paths are relative to.
    source : str
        Names the split in messages.

    Raises
    ------
    UserError
        At the first bad row, naming it.
    """
    for batch in table.iter(batch_size=1000):
        ids, messages = batch["id"].to_pylist(), batch["messages"].to_pylist()
        counts = pc.fill_null(pc.list_value_length(batch["images"]), 0).to_pylist()
        for row_id, turns, count, kind in zip(ids, messages, counts, batch["kind"].to_pylist(), strict=True):
            _check_messages(turns, count, f"{source}, row {row_id!r}")
            if kind is None:
                raise UserError(f"{source}, row {row_id!r}: kind is missing")
        _check_paths(batch, folder, source)


def _check_messages(messages: list[dict], images: int, where: str) -> None:
    if not messages or messages[-1]["role"] != "assistant":
        raise UserError(f"{where}: the last message must be the assistant's answer")
    for message in messages:
        if message["role"] not in ROLES:
            raise UserError(f"{where}: unknown role {message['role']!r}, expected one of: {', '.join(ROLES)}")
        if not isinstance(message["content"], str):
            raise UserError(f"{where}: the content of a message is {message['content']!r}, expected text")
        if message["role"] != "user" and IMAGE_PLACEHOLDER in message["content"]:
            raise UserError(f"{where}: {IMAGE_PLACEHOLDER} stands in a message of the {message['role']}")
    placeholders = sum(message["content"].count(IMAGE_PLACEHOLDER) for message in messages)
    if placeholders != images:
        raise UserError(f"{where}: {placeholders} {IMAGE_PLACEHOLDER} placeholders but {images} images")


def _check_paths(batch: pa.Table, folder: Path, source: str) -> None:
    """Image files that rows point to must exist."""
    column = batch["images"].combine_chunks()
    flat, parents = pc.list_flatten(column), pc.list_parent_indices(column).to_pylist()
    if pa.types.is_struct(flat.type):
        outside = pc.is_null(flat.field("bytes")).to_pylist()
        names = pc.if_else(pa.array(outside, pa.bool_()), flat.field("path"), None).to_pylist()
    else:
        outside, names = [True] * len(flat), flat.to_pylist()
    for parent, is_outside, name in zip(parents, outside, names, strict=True):
        if is_outside and not (name and image_file(name, folder).is_file()):
            row_id = batch["id"][parent].as_py()
            raise UserError(f"{source}, row {row_id!r}: the image {name!r} does not exist in {folder}")
