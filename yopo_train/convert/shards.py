"""Weight shards of an original checkpoint, read one tensor at a time."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import UserError, first_line
from .files import read_json

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}


class Shard:
    """One ``.safetensors`` or ``.bin`` file. Nothing of it is kept in memory.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    UserError
        By every method: damaged or cut off, or a pickle that holds more than tensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def header(self) -> dict[str, Tensor]:
        """Every tensor's name, shape and type, on the device "meta": read without its data."""
        if self.path.suffix != ".safetensors":
            return self._unpickle("meta")
        try:
            with safe_open(self.path, framework="pt") as file:
                parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                return {name: self._meta(name, part) for name, part in parts.items()}
        except (OSError, SafetensorError) as error:
            raise self._damaged(error) from None

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors, one after the other; both kinds of file are mapped into memory, not read at once."""
        if self.path.suffix != ".safetensors":
            content = self._unpickle("cpu")
            while content:
                yield content.popitem()
            return
        try:
            with safe_open(self.path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    yield name, file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise self._damaged(error) from None

    def _meta(self, name: str, part) -> Tensor:
        if part.get_dtype() not in DTYPES:
            raise UserError(f"{self.path}: {name} is of type {part.get_dtype()}, expected one of: {', '.join(DTYPES)}")
        return torch.empty(part.get_shape(), dtype=DTYPES[part.get_dtype()], device="meta")

    def _unpickle(self, device: str) -> dict[str, Tensor]:
        try:
            # the older of torch's two formats cannot be mapped
            mapped = zipfile.is_zipfile(self.path)
            content = torch.load(self.path, map_location=device, weights_only=True, mmap=mapped)
        except Exception as error:  # what torch makes of a damaged pickle can be anything
            raise self._damaged(error) from None
        if not isinstance(content, dict) or not all(_is_dense(name, value) for name, value in content.items()):
            raise UserError(f"{self.path}: holds something else than named, dense tensors")
        return dict(content)

    def _damaged(self, error: Exception) -> UserError:
        reason = first_line(error)
        return UserError(f"{self.path}: the shard is damaged or incomplete: {reason}")


def _is_dense(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor) and value.layout is torch.strided


def find_shards(folder: Path) -> list[Shard]:
    """The shards of a checkpoint folder, in the order of their names.

    Raises
    ------
    UserError
        No weights, a damaged index, or shards that the index names and the folder lacks.
    """
    for index in INDEXES:
        if (folder / index).is_file():
            return _indexed(folder, index)
    for name in SINGLE_FILES:
        if (folder / name).is_file():
            return [Shard(folder / name)]
    raise UserError(f"{folder}: no weights, expected one of: {', '.join(INDEXES + SINGLE_FILES)}")


def _indexed(folder: Path, index: str) -> list[Shard]:
    weights = read_json(folder / index).get("weight_map")
    if not isinstance(weights, dict) or not weights or not all(isinstance(name, str) for name in weights.values()):
        raise UserError(f"{folder / index}: weight_map is missing or damaged, expected a shard's name for each tensor")
    names = sorted(set(weights.values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder}: {len(missing)} of {len(names)} shards are missing, the first is {missing[0]}")
    return [Shard(folder / name) for name in names]
