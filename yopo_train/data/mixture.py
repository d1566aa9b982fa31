"""Training on several question sets at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import UserError
from .rows import Rows


@dataclass
class TrainSource:
    """One of the question sets that `data.train` lists.

    Parameters
    ----------
    path
        Like data.path: file, folder or Hub id.
    split
        Which split of it.
    weight
        How often each of its rows is visited in an epoch: 2 is twice, 0.25 a quarter of them, another one each epoch.
    image_root
        What its image paths are relative to; the folder of the set unless given.
    subset
        Configuration of a Hub set that has several.
    """

    path: str
    split: str = "train"
    weight: float = 1.0
    image_root: str | None = None
    subset: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise UserError(f"data.train: the weight of {self.path} is {self.weight}, expected a number above 0")


def joined(sets: Sequence[Rows]) -> Rows:
    """Rows of several sets, one set after the other; nothing is copied."""
    starts = np.cumsum([0, *(rows.ends[-1] for rows in sets)])
    index = np.concatenate([start + rows.index for start, rows in zip(starts, sets, strict=False)])
    return Rows([part for rows in sets for part in rows.parts], index, sets[0].sizing)
