"""A loader of rows for one process of many."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ..errors import UserError
from ..ranks import rank_and_world
from .collate import Batch, Row


def make_loader(
    rows: Dataset,
    source: str,
    collate: Callable[[list[Row]], Batch],
    batch_size: int,
    sampler: Sampler,
    num_workers: int,
) -> DataLoader:
    """Batches of the rows that the sampler names.

    Parameters
    ----------
    source
        Names the rows in messages.
    num_workers
        Processes that read, decode and tokenise; 0 does it in this one.

    Raises
    ------
    UserError
        There are fewer rows than processes.
    """
    world = rank_and_world()[1]
    if len(rows) < world or not len(sampler):  # the others would wait forever for one that has nothing to do
        raise UserError(f"{source}: {len(rows)} rows, expected at least one for each of {world} processes")
    if num_workers:
        # The tokenizer's threads do not survive the fork of worker processes, and warn about it once a worker.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return DataLoader(
        rows,
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
