"""What all benchmarks share: where their rows come from, checks, the sample that `limit` draws, submission files."""

from __future__ import annotations

import json
import random
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from ...errors import UserError
from ..metrics import PROTOCOLS
from .item import VICUNA_SYSTEM, GenerationSettings, Item
from .pictures import MissingPicture
from .records import Record
from .tables import DEFAULT_CONFIG, is_table, read_table

HUB_OWNERS = ("lmms-lab-encoder", "lmms-lab")
"""lmms-eval's data sets moved from the second to the first on 2026-07-30; both are read."""


class HubSplit(NamedTuple):
    """Where the hub has a split."""

    split: str
    config: str = DEFAULT_CONFIG


class Benchmark(ABC):
    """One benchmark. A new one is one file with a subclass, and its name in `BENCHMARKS`.

    Attributes
    ----------
    name : str
        Its short name.
    hub : str
        Its name on the hub, behind ``lmms-lab-encoder/`` or ``lmms-lab/``.
    splits : dict
        Our name of a split -> the hub's; the first is the default.
    columns : tuple of str
        Columns that the hub's rows must have.
    tokens : dict
        Protocol -> longest answer in tokens.
    answer : str
        Key of the answer in a reference.
    unanswered : tuple of str
        Protocols whose reference scores a row without an answer, as 0; elsewhere such a row is an error.
    """

    name: ClassVar[str]
    hub: ClassVar[str]
    splits: ClassVar[dict[str, HubSplit]]
    columns: ClassVar[tuple[str, ...]]
    tokens: ClassVar[dict[str, int]]
    answer: ClassVar[str] = "answer"
    unanswered: ClassVar[tuple[str, ...]] = ()

    # -- to write for a benchmark --------------------------------------------------------------------------------
    @abstractmethod
    def raw(self, path: Path, split: str) -> list[Record]:
        """The rows of the official files: a file of them, or a folder."""

    @abstractmethod
    def id(self, record: Record) -> str:
        """The id of a row's item."""

    @abstractmethod
    def prompt(self, record: Record, protocol: str) -> str:
        """The user's text as the protocol writes it from a row's fields."""

    @abstractmethod
    def reference(self, record: Record, protocol: str) -> dict[str, Any]:
        """What the metric needs of a row, but its id."""

    def table(self, source: str, split: str) -> list[Record]:
        """The rows of a hub id or of a folder in the hub's layout."""
        place = self.splits[split]
        return read_table(source, place.config, place.split, self.columns)

    def group(self, item: Item) -> Hashable:
        """Items of the same group are scored together: `limit` takes all of them or none."""
        return item.id

    def check(self, items: Sequence[Item], records: Sequence[Record]) -> None:  # noqa: B027 most have nothing to add
        """Raise UserError where the rows do not fit together."""

    # -- what all have -------------------------------------------------------------------------------------------
    def items(
        self,
        source: str | Path | None = None,
        protocol: str = "llava",
        split: str | None = None,
        limit: int | None = None,
        seed: int = 0,
        images: bool = True,
    ) -> list[Item]:
        """The items of a split, all of them checked, in the order of their file.

        Parameters
        ----------
        source : str or Path, optional
            A hub id (by default ``lmms-lab-encoder/…``), a local folder of `datasets`, or the official raw files:
            which of them is found out from what is there.
        protocol : str
            One of `PROTOCOLS`.
        split : str, optional
            One of :attr:`splits`; the first by default.
        limit : int, optional
            At most so many items, in whole groups, but one group at least. ``None`` is all.
        seed : int
            Draws the groups that a limit keeps.
        images : bool
            Whether the image files must be there; without, a missing one is an error only when it is opened.

        Raises
        ------
        UserError
            Whatever is wrong, in one line that names file, row and field.
        """
        _check_protocol(protocol)
        if limit is not None and limit < 1:
            raise UserError(f"{self.name}: limit is {limit}, expected at least 1")
        split = self._split(split)
        records = self._records(source, split)
        if not records:
            raise UserError(f"{source or self.hub}, split {split!r}: there are no rows")
        items = [self._item(record, protocol) for record in records]
        self._check_ids(items, records)
        if protocol not in self.unanswered:
            self._check_answers(items, records)
        self.check(items, records)
        kept = self._sample(items, limit, seed)
        for picture in chain.from_iterable(item.pictures for item in kept if images):
            if isinstance(picture, MissingPicture):
                picture.open()
        return kept

    def settings(self, protocol: str = "llava") -> GenerationSettings:
        """How the protocol lets a model answer."""
        _check_protocol(protocol)
        llava = protocol == "llava"
        return GenerationSettings(self.tokens[protocol], VICUNA_SYSTEM if llava else None, letterbox=llava)

    def has_answers(self, items: Sequence[Item]) -> bool:
        """Whether these items can be scored here."""
        return any(item.reference[self.answer] is not None for item in items)

    def submission(self, path: str | Path, items: Sequence[Item], predictions: Mapping[str, str]) -> Path:
        """Write the official submission file.

        Parameters
        ----------
        path : str or Path
            The file to write.
        items : sequence of Item
            Whose answers are handed in.
        predictions : Mapping
            Item id -> the model's answer.

        Returns
        -------
        Path
            The file that was written.

        Raises
        ------
        UserError
            The benchmark has no such file: its answers are public.
        """
        raise UserError(f"{self.name}: there is no submission file, its answers are public")

    # -- within ---------------------------------------------------------------------------------------------------
    def _split(self, split: str | None) -> str:
        if split is None:
            return next(iter(self.splits))
        if split not in self.splits:
            raise UserError(f"{self.name}: there is no split {split!r}; expected one of: {', '.join(self.splits)}")
        return split

    def _records(self, source: str | Path | None, split: str) -> list[Record]:
        source = f"{HUB_OWNERS[0]}/{self.hub}" if source is None else str(source)
        path = Path(source)
        if path.exists():
            return self.table(source, split) if is_table(path) else self.raw(path, split)
        # A typing error in a local path would otherwise be looked up on the hub for half a minute.
        if len(path.parts) != 2 or path.is_absolute() or Path(path.parts[0]).is_dir():
            ids = " or ".join(f"{owner}/{self.hub}" for owner in HUB_OWNERS)
            raise UserError(f"{self.name}: {source!r} does not exist; expected a folder, a file or a hub id ({ids})")
        return self.table(source, split)

    def _item(self, record: Record, protocol: str) -> Item:
        own = record.prompt if protocol == "llava" else None
        prompt = own if own is not None else self.prompt(record, protocol)
        if "<image>" in prompt:
            raise record.error("question", "holds '<image>', which would stand for another image")
        name = self.id(record)
        pictures = () if record.picture is None else (record.picture,)
        return Item(name, prompt, {"id": name} | self.reference(record, protocol), pictures)

    def _check_ids(self, items: Sequence[Item], records: Sequence[Record]) -> None:
        """References keyed by id would overwrite one row with the other in silence."""
        first: dict[str, str] = {}
        for item, record in zip(items, records, strict=True):
            if item.id in first:
                raise UserError(f"{record.where}, field id: {item.id!r} was there before ({first[item.id]})")
            first[item.id] = record.where

    def _check_answers(self, items: Sequence[Item], records: Sequence[Record]) -> None:
        """A split has answers or has none; single missing ones are an error."""
        if self.has_answers(items):
            for item, record in zip(items, records, strict=True):
                if item.reference[self.answer] is None:
                    raise record.error(self.answer, "missing, but other rows of the split have one")

    def _sample(self, items: list[Item], limit: int | None, seed: int) -> list[Item]:
        if limit is None or limit >= len(items):
            return items
        groups: dict[Hashable, list[int]] = {}
        for i, item in enumerate(items):
            groups.setdefault(self.group(item), []).append(i)
        drawn = list(groups.values())
        random.Random(seed).shuffle(drawn)
        kept = list(drawn[0])
        for group in drawn[1:]:
            if len(kept) + len(group) > limit:
                break
            kept += group
        return [items[i] for i in sorted(kept)]


def _check_protocol(protocol: str) -> None:
    if protocol not in PROTOCOLS:
        raise UserError(f"protocol: found {protocol!r}, expected one of: {', '.join(PROTOCOLS)}")


def need_image(record: Record) -> None:
    """Raise UserError where a row has no image."""
    if record.picture is None:
        raise record.error("image", "missing, expected an image")


def write_json(path: str | Path, value: Any) -> Path:
    """A JSON file that appears under its name when it is complete."""
    from ...run_folder import write_text

    path = Path(path)
    write_text(path, json.dumps(value, ensure_ascii=False))
    return path
