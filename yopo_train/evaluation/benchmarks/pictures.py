"""Images that are not read before they are asked for: a file, a cell of a table on disk, base64 inside a TSV."""

from __future__ import annotations

import base64
import io
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset
from PIL import Image

from ...errors import UserError

BROKEN = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises at a damaged image: SyntaxError at a PNG's."""


class Picture(ABC):
    """Where one image lies."""

    __slots__ = ()

    @abstractmethod
    def read(self) -> tuple[bytes, str]:
        """The bytes of its file, and what messages call it; UserError where there are none."""

    def mark(self) -> int | None:
        """Bytes that it takes, which tell an image from another in its place; None where that is not cheap to know."""
        return None

    def open(self) -> Image.Image:
        """The image in RGB, as all references convert it; UserError where it cannot be read."""
        return decode(*self.read())

    def size(self) -> tuple[int, int]:
        """Width and height, from the header alone; UserError where it cannot be read."""
        data, where = self.read()
        return _opened(data, where).size


@dataclass(frozen=True, slots=True)
class FilePicture(Picture):
    """An image file, and which row of which file names it."""

    path: str
    where: str

    def read(self) -> tuple[bytes, str]:
        try:
            data = Path(self.path).read_bytes()
        except OSError as error:
            raise UserError(f"{self.where}, field image: {self.path} cannot be read ({error})") from error
        return data, f"{self.where}, field image: {self.path}"

    def mark(self) -> int | None:
        return os.stat(self.path).st_size if os.path.exists(self.path) else None


@dataclass(frozen=True, slots=True)
class MissingPicture(Picture):
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

    def read(self) -> tuple[bytes, str]:
        raise UserError(f"{self.where}, field image: {self.path!r} does not exist in {self.places}")


@dataclass(frozen=True, slots=True)
class TablePicture(Picture):
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

    def read(self) -> tuple[bytes, str]:
        where = f"{self.source}, row {self.row}, field image"
        cell = self.table[self.row]["image"][0].as_py()
        if cell["bytes"] is not None:
            return cell["bytes"], where
        try:
            data = Path(cell["path"]).read_bytes()
        except OSError as error:
            raise UserError(f"{where}: {cell['path']} cannot be read ({error})") from error
        return data, f"{where}: {cell['path']}"


@dataclass(frozen=True, slots=True)
class EncodedPicture(Picture):
    """Base64 text, bytes ``[start, stop)`` of a file."""

    path: str
    start: int
    stop: int
    where: str

    def read(self) -> tuple[bytes, str]:
        where = f"{self.where}, field image"
        try:
            with open(self.path, "rb") as file:
                file.seek(self.start)
                text = file.read(self.stop - self.start)
            data = base64.b64decode(text)
        except (OSError, ValueError) as error:  # binascii.Error is a ValueError
            raise UserError(f"{where}: not base64 of an image ({error})") from error
        return data, where

    def mark(self) -> int:
        return self.stop - self.start


def decode(data: bytes, where: str) -> Image.Image:
    """The image of a file's bytes, in RGB.

    Raises
    ------
    UserError
        It is none; the message begins with `where`.
    """
    try:
        return _opened(data, where).convert("RGB")
    except UserError:  # which is a ValueError
        raise
    except BROKEN as error:
        raise UserError(f"{where} cannot be read as an image ({error})") from error


def _opened(data: bytes, where: str) -> Image.Image:
    """The header is read, the pixels are not."""
    try:
        return Image.open(io.BytesIO(data))
    except BROKEN as error:
        raise UserError(f"{where} cannot be read as an image ({error})") from error
