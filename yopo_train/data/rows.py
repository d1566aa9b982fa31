"""The rows of a question set: memory-mapped, read one by one, and checked before anything runs.

A row is ``{id, images, messages, kind}``; ``<image>`` in a message says where an image goes. What files hold is
converted as it is read (see `formats`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.utils.data import Dataset as TorchDataset

from ..errors import UserError
from .cache import key_of
from .checks import Findings, find_bad_rows
from .formats import DEFAULT_KIND, RowError, answerable, as_row
from .images import ImageSizing, decode, image_file, name_of, read_size
from .sources import Source, open_source

Sizes = list[tuple[int, int]]


class Rows(TorchDataset):
    """The checked rows of one split, or of several sets one after the other.

    Parameters
    ----------
    parts : list of Source
        Where the rows are stored; their numbers count through all parts.
    index : (rows,) int64, optional
        Numbers of the rows that there are, in order; all of them unless given.
    sizing : ImageSizing, optional
        What size images are given.
    answers : dict, optional
        Answers to rows that lack theirs, by the rows' numbers.
    """

    def __init__(
        self,
        parts: Sequence[Source],
        index: np.ndarray | None = None,
        sizing: ImageSizing | None = None,
        answers: Mapping[int, str] | None = None,
    ) -> None:
        self.parts, self.sizing = list(parts), sizing or ImageSizing()
        self.ends = np.cumsum([len(part) for part in self.parts])
        self.index = np.arange(self.ends[-1]) if index is None else index
        self.answers = dict(answers or {})

    @property
    def source(self) -> str:
        """Names the rows in messages."""
        return " + ".join(part.name for part in self.parts)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``{id: str, kind: str, messages: list[dict], images: list[PIL.Image]}``, images in RGB.

        Raises
        ------
        UserError
            An image cannot be read; names the file and the row.
        """
        row, part, where = self._row(index)
        images = []
        for image in row["images"]:
            with _naming(image, where):
                images.append(self.sizing(decode(image, part.folder)))
        return row | {"images": images}

    @property
    def kinds(self) -> list[str]:
        """The question kinds that occur, sorted."""
        found: set[str] = set()
        for part, numbers in self.by_part():
            if "kind" not in part.table.column_names:
                found.add(DEFAULT_KIND)
                continue
            column = part.table.select_columns("kind")[:]["kind"]
            found.update(pc.unique(column.take(pa.array(numbers))).to_pylist())
        return sorted(found)

    def by_part(self) -> list[tuple[Source, np.ndarray]]:
        """Each part with the numbers, within it, of its rows."""
        starts = self.ends - [len(part) for part in self.parts]
        owner = np.searchsorted(self.ends, self.index, side="right")
        return [(part, self.index[owner == i] - starts[i]) for i, part in enumerate(self.parts)]

    def select(self, indices: Sequence[int] | np.ndarray) -> Rows:
        """These rows only, in this order; nothing is copied."""
        return Rows(self.parts, self.index[np.asarray(indices, dtype=np.int64)], self.sizing, self.answers)

    def unanswered(self) -> list[int]:
        """Which rows lack their last answer; only where `Source.unanswered` lets them."""
        starts = self.ends - [len(part) for part in self.parts]
        lacking = [start + number for part, start in zip(self.parts, starts, strict=True) for number in part.lacking]
        found = np.setdiff1d(np.array(lacking, np.int64), np.array(list(self.answers), np.int64))
        return np.flatnonzero(np.isin(self.index, found)).tolist()

    def sample(self, limit: int | None, seed: int) -> Rows:
        """At most `limit` rows, drawn by `seed`, in the order of the set. ``None`` is all."""
        if limit is None or limit >= len(self):
            return self
        drawn = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:limit]
        return self.select(drawn.sort().values.numpy())

    def key(self) -> str | None:
        """Stands for the rows as stored and chosen, image files aside; None where they are not stored."""
        keys = [part.key for part in self.parts]
        chosen = hashlib.sha256(self.index.tobytes()).hexdigest()
        about = [keys, chosen, [str(part.folder.resolve()) for part in self.parts], sorted(self.answers.items())]
        return None if None in keys else key_of(*about)

    def fingerprint(self) -> str:
        """12 hex digits of all that the rows hold, images included, in the rows or in files of their own.

        Raises
        ------
        UserError
            An image file cannot be read.
        """
        digest = hashlib.sha256()
        for index in range(len(self)):
            part, number = self._locate(index)
            raw = part.raw(number)
            digest.update(repr({name: value for name, value in raw.items() if name != "place"}).encode())
            row, _, where = self._row(index, raw)
            for image in row["images"]:
                if isinstance(image, str):
                    with _naming(image, where):
                        digest.update(image_file(image, part.folder).read_bytes())
        return digest.hexdigest()[:12]

    def raws(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Rows as they are stored, read together: faster than one by one."""
        found: list[dict[str, Any]] = []
        for part, places in groupby((self._locate(index) for index in indices), key=itemgetter(0)):
            found += part.table[[number for _, number in places]].to_pylist()
        return found

    def messages_and_sizes(self, index: int, raw: dict[str, Any] | None = None) -> tuple[list[dict[str, str]], Sizes]:
        """A row's messages and the (height, width) that its images will have, from the files' headers only.

        Parameters
        ----------
        raw
            The row as `raws` gives it, where it is read already.
        """
        row, part, where = self._row(index, raw)
        sizes = []
        for image in row["images"]:
            with _naming(image, where):
                sizes.append(self.sizing.size(*read_size(image, part.folder)))
        return row["messages"], [(height, width) for width, height in sizes]

    def _locate(self, index: int) -> tuple[Source, int]:
        number = int(self.index[index])
        owner = int(np.searchsorted(self.ends, number, side="right"))
        return self.parts[owner], number - int(self.ends[owner]) + len(self.parts[owner])

    def _row(self, index: int, raw: dict[str, Any] | None = None) -> tuple[dict[str, Any], Source, str]:
        """A row with its images unread, its part, and what messages call it."""
        part, number = self._locate(index)
        raw = part.raw(number) if raw is None else raw
        try:
            row = as_row(raw, number)
        except RowError as error:  # the checks leave none
            raise UserError(f"{part.where(number, str(number), raw.get('place'))}: {error}") from None
        if part.unanswered:
            row = answerable(row)
            answer = self.answers.get(int(self.index[index]))
            if answer is not None:
                row["messages"] = [*row["messages"][:-1], {"role": "assistant", "content": answer}]
        return row, part, part.where(number, row["id"], raw.get("place"))


@contextmanager
def _naming(image: str | dict, where: str) -> Iterator[None]:
    """Whatever is wrong with an image, as one line that names its row."""
    try:
        yield
    except Exception as error:  # decoders of broken files raise whatever they stumble over
        raise UserError(f"{where}: {name_of(image)} cannot be read as an image ({error})") from error


def open_rows(
    path: str | Path,
    split: str,
    image_root: str | None = None,
    subset: str | None = None,
    sizing: ImageSizing | None = None,
    unanswered: bool = False,
) -> tuple[Rows, Findings]:
    """The good rows of one split, and what is wrong with the others; ``unanswered`` ones may be good, too.

    Raises
    ------
    UserError
        The split cannot be opened, see `open_source`.
    """
    source = open_source(path, split, image_root, subset)
    source.unanswered = unanswered
    findings = find_bad_rows(source)
    source.lacking = findings.lacking
    return Rows([source], findings.good(), sizing), findings


def load_rows(path: str | Path, split: str, image_root: str | None = None) -> Rows:
    """All rows of one split, each of which has to be good.

    Parameters
    ----------
    path
        See `open_source`.
    split
        ``train``, ``calibration``, ``validation`` or ``test``.

    Raises
    ------
    UserError
        The split cannot be opened; or the first row whose ``<image>`` count differs from its images, whose roles or
        last message are not as expected, or whose image file does not exist.
    """
    rows, findings = open_rows(path, split, image_root)
    findings.refuse()
    return rows
