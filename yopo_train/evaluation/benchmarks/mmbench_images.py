"""Images inside MMBench's TSV: base64, or the index of the row that holds the same image."""

from __future__ import annotations

import mmap
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import UserError
from .pictures import EncodedPicture

_ALPHABET = (string.ascii_letters + string.digits + "+/=").encode()
_LONGEST_INDEX = 64  # longer values are images: so VLMEvalKit tells them apart


def tsv_pictures(path: Path, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[EncodedPicture]:
    """Where each row's image lies; the encoding of all is checked, none is decoded.

    Parameters
    ----------
    path : Path
        The TSV.
    rows : sequence of (str, Mapping)
        Its rows as `read_tsv` gives them, ``image`` as its place in the file.

    Raises
    ------
    UserError
        An image is missing or no base64, or an index that no row has.
    """
    found: list[EncodedPicture | str] = []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for where, row in rows:
            if row["image"] is None:
                raise UserError(f"{where}, field image: missing, expected an image in base64")
            start, stop = row["image"]
            text = data[start:stop]
            if len(text) <= _LONGEST_INDEX and text.isdigit():
                found.append(text.decode())
            else:
                _check_base64(text, where)
                found.append(EncodedPicture(str(path), start, stop, where))
    named = {row["index"]: one for (_, row), one in zip(rows, found, strict=True) if isinstance(one, EncodedPicture)}
    made = []
    for (where, _), one in zip(rows, found, strict=True):
        picture = named.get(one) if isinstance(one, str) else one
        if picture is None:
            raise UserError(f"{where}, field image: {one!r} is not the index of a row with an image")
        made.append(picture)
    return made


def _check_base64(text: bytes, where: str) -> None:
    bare = text.translate(None, b"\r\n")
    if wrong := bare.translate(None, _ALPHABET):
        raise UserError(f"{where}, field image: not base64, it holds {wrong[:1].decode('latin-1')!r}")
    if len(bare) % 4:
        raise UserError(f"{where}, field image: not base64, {len(bare)} characters are no multiple of 4")
