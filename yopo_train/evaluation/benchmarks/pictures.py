"""Images that are not read before they are asked for: a file, a cell of a table on disk, base64 inside a TSV."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from datasets import Dataset
from PIL import Image

from ...errors import UserError


class Picture(Protocol):
    """Where one image lies."""

    def open(self) -> Image.Image:
        """The image in RGB, as all references convert it; UserError where it cannot be read."""


@dataclass(frozen=True, slots=True)
class FilePicture:
    """An image file, and which row of which file names it."""

    path: str
    where: str

    def open(self) -> Image.Image:
        try:
            data = Path(self.path).read_bytes()
        except OSError as error:
            raise UserError(f"{self.where}, field image: {self.path} cannot be read ({error})") from error
        return decode(data, f"{self.where}, field image: {self.path}")


@dataclass(frozen=True, slots=True)
class MissingPicture:
    """An image file that is not there: who only wants the answers does not need it.

    Parameters
    ----------
    path : str
        Name of the file.
    where : str
        Which row of which file names it.
    places : str
        Where it was looked for.
    """

    path: str
    where: str
    places: str

    def open(self) -> Image.Image:
        raise UserError(f"{self.where}, field image: {self.path!r} does not exist in {self.places}")


@dataclass(frozen=True, slots=True)
class TablePicture:
    """A cell of a memory-mapped table's column ``image``.

    Parameters
    ----------
    table : Dataset
        In arrow format: the cell comes as ``{bytes, path}``.
    row : int
        Its row.
    source : str
        Names the table in messages.
    """

    table: Dataset
    row: int
    source: str

    def open(self) -> Image.Image:
        where = f"{self.source}, row {self.row}, field image"
        cell = self.table[self.row]["image"][0].as_py()
        if cell["bytes"] is not None:
            return decode(cell["bytes"], where)
        try:
            data = Path(cell["path"]).read_bytes()
        except OSError as error:
            raise UserError(f"{where}: {cell['path']} cannot be read ({error})") from error
        return decode(data, f"{where}: {cell['path']}")


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """Base64 text, bytes ``[start, stop)`` of a file."""

    path: str
    start: int
    stop: int
    where: str

    def open(self) -> Image.Image:
        where = f"{self.where}, field image"
        try:
            with open(self.path, "rb") as file:
                file.seek(self.start)
                text = file.read(self.stop - self.start)
            data = base64.b64decode(text)
        except (OSError, ValueError) as error:  # binascii.Error is a ValueError
            raise UserError(f"{where}: not base64 of an image ({error})") from error
        return decode(data, where)


def decode(data: bytes, where: str) -> Image.Image:
    """The image of a file's bytes, in RGB.

    Raises
    ------
    UserError
        It is none; the message begins with `where`.
    """
    try:
        return Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # broken PNGs: SyntaxError
        raise UserError(f"{where} cannot be read as an image ({error})") from error
