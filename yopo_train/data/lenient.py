"""Training on rows of which some prove unusable only when their images are decoded: `data.strict` false.

The next row that can be used takes the place of one that cannot: batches keep their size, every process its number of
batches, and the same configuration replaces the same rows by the same others, resumed or not.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import Dataset

from ..errors import UserError
from ..ranks import of_all_ranks
from .collate import Batch, Row
from .rows import Rows

TRIES = 100
"""Rows one after the other of which one has to be usable."""
WARNINGS = 10


class Replacing(Dataset):
    """Rows, each of which can be read; one that stands in for others says in ``instead_of`` what was wrong with them.

    Parameters
    ----------
    rows
        Of which some may be unreadable.
    collate
        What makes batches of them; it may refuse a row, too.
    """

    def __init__(self, rows: Rows, collate: Callable[[list[Row]], Batch]) -> None:
        self.rows, self.collate = rows, collate

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self._usable(index, lambda row: None)

    def batch(self, rows: list[Row]) -> Batch:
        """A batch of rows of this set, in which rows that the model's processor refuses are replaced."""
        try:
            return self.collate(rows)
        except UserError:
            return self.collate([self._usable(row["index"], lambda row: self.collate([row]), row) for row in rows])

    def _usable(self, index: int, use: Callable[[Row], Any], row: Row | None = None) -> Row:
        """The first row from ``index`` on that can be read and used; ``row`` is that of ``index``, where it is read."""
        problems = list(row.get("instead_of", ())) if row is not None else []
        for step in range(TRIES):
            place = (index + step) % len(self.rows)
            try:
                found = row if row is not None and step == 0 else self.rows[place]
                use(found)
            except UserError as error:
                problems.append(str(error))
                continue
            return found | {"index": place} | ({"instead_of": problems} if problems else {})
        raise UserError(f"none of {TRIES} rows one after the other can be used; the first: {problems[0]}")


class Replaced:
    """Counts, on its process, the rows that others stood in for."""

    def __init__(self) -> None:
        self.problems: dict[str, None] = {}  # as a set that keeps the order
        self.times = 0

    def note(self, batch: Any) -> None:
        """Look at a batch on its way to the device; warns of the first few rows."""
        metas = batch.get("meta", ()) if isinstance(batch, dict) else ()
        replaced = [meta["instead_of"] for meta in metas if "instead_of" in meta]
        self.times += len(replaced)
        for problem in (problem for problems in replaced for problem in problems):
            if problem not in self.problems:
                self.problems[problem] = None
                if len(self.problems) <= WARNINGS:
                    warnings.warn(f"replaced by the next row: {problem}", stacklevel=2)

    def summary(self) -> str | None:
        """One line of what all processes have counted, where there is anything to say; all of them have to ask."""
        counted = of_all_ranks((self.problems, self.times))
        rows = list(dict.fromkeys(problem for problems, _ in counted for problem in problems))
        if not rows:
            return None
        times = sum(times for _, times in counted)
        return f"{len(rows)} training rows could not be used, others were trained on {times} times; first: {rows[0]}"


def decodable(rows: Rows) -> Rows:
    """The questions whose images can be decoded: one question cannot stand in for another, as a training row can.

    Raises
    ------
    UserError
        There is none.
    """
    kept, problems = [], []
    for index in range(len(rows)):
        try:
            rows[index]
            kept.append(index)
        except UserError as error:
            problems.append(str(error))
    if not kept:
        raise UserError(f"{rows.source}: no row's images can be read; the first: {problems[0]}")
    if problems:
        rank_zero_warn(f"{rows.source}: skipped {len(problems)} of {len(rows)} rows; the first: {problems[0]}")
    return rows.select(kept) if problems else rows
