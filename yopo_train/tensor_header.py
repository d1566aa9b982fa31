"""The header of a safetensors file, looked at before anything else is read: no tensor is touched, nothing is allocated.

The format (https://github.com/huggingface/safetensors#format): 8 bytes with the header's length, little endian; the
header, one JSON object ``{name: {"dtype", "shape", "data_offsets"}, "__metadata__": {str: str}}``; the tensors' bytes,
without a gap.
"""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from yopo_train.errors import UserError

MIB = 1 << 20
MOST_AXES = 8
MOST_BYTES = {"plan": 64 * MIB, "scores": 1024 * MIB}
"""The largest files that make sense: 126 layers with 53 248 channels are a plan of 7 MB."""
DTYPE_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1}
DTYPE_BYTES |= {"I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8}


@dataclass(frozen=True)
class TensorEntry:
    """What the header says of one tensor: its type as safetensors calls it, such as "F32", and its shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class TensorHeader:
    """A checked header: its tensors by name, and the metadata, strings by name."""

    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]


def read_header(path: str | Path, most_bytes: int | None = None, most_header: int = MIB) -> TensorHeader:
    """Read and check a header.

    Parameters
    ----------
    most_bytes
        The largest file that makes sense, in bytes.
    most_header
        The longest header that makes sense, in bytes. A JSON object may take thirty times its length in memory.

    Raises
    ------
    UserError
        No such file, one that is too large, or a header that does not describe exactly the bytes that are there.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if most_bytes is not None and size > most_bytes:
            raise UserError(f"{path}: has {size} bytes, expected at most {most_bytes}")
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise UserError(f"{path}: not a readable safetensors file (cut off)")
            if length > most_header:
                raise UserError(f"{path}: its header has {length} bytes, expected at most {most_header}")
            content = json.loads(file.read(length))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not a readable safetensors file (its header is no JSON)") from None
    try:
        return _checked(content, size - 8 - length)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{path}: not a readable safetensors file (damaged header: {reason})") from None


def _checked(content: Any, data: int) -> TensorHeader:
    """The header of a file with ``data`` bytes of tensors; ValueError, KeyError or TypeError where it is wrong."""
    metadata = content.pop("__metadata__", None) or {}
    if not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("metadata that is not text")
    tensors, places = {}, []
    for name, entry in content.items():
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if dtype not in DTYPE_BYTES:
            raise ValueError(f"{name!r:.80} is of the unknown type {dtype!r:.40}")
        numbers = (*shape, begin, end)
        if len(shape) > MOST_AXES or not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
            raise ValueError(f"{name!r:.80} has no proper shape")
        if end - begin != prod(shape) * DTYPE_BYTES[dtype]:
            raise ValueError(f"{name!r:.80} has {end - begin} bytes, not what its shape takes")
        tensors[name] = TensorEntry(dtype, tuple(shape))
        places.append((begin, end))
    position = 0
    for begin, end in sorted(places):
        if begin != position:
            raise ValueError("tensors overlap, or leave a gap")
        position = end
    if position != data:
        raise ValueError(f"tensors of {position} bytes in {data} bytes")
    return TensorHeader(tensors, metadata)
