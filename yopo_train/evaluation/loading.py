"""Batches that are read and tokenised while the model works."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ..data.collate import Batch
from ..errors import UserError

AHEAD = 2
"""Batches that wait for the model."""


def loaded(
    items: Sequence[Any], batches: Sequence[Sequence[int]], collate: Callable[[list[Any]], Batch], workers: int
) -> Iterator[Batch]:
    """The batches in order, made ahead of their use.

    Parameters
    ----------
    items
        All items.
    batches
        Numbers of the items of each batch.
    collate
        From items to a batch.
    workers
        Processes; 0 is a thread beside the model, which is enough where images are small or the model is large.

    Raises
    ------
    UserError
        What `collate` raised, when the batches before have been given.
    """
    made = _Batches(items, batches, collate)
    for batch in _in_processes(made, workers) if workers else _in_a_thread(made):
        if isinstance(batch, UserError):
            raise batch
        yield batch


def _in_a_thread(made: _Batches) -> Iterator[Batch | UserError]:
    pool, waiting = ThreadPoolExecutor(1, "batches"), deque()
    try:
        for number in range(len(made)):
            waiting.append(pool.submit(made.__getitem__, number))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_processes(made: _Batches, workers: int) -> Iterator[Batch | UserError]:
    # The tokenizer's threads do not survive the fork of worker processes, and warn about it once a worker.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    yield from DataLoader(
        made,
        batch_size=None,
        num_workers=min(workers, max(1, len(made))),
        prefetch_factor=AHEAD,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else it draws from the one that training draws from
    )


class _Batches(Dataset):
    def __init__(self, items: Sequence[Any], batches: Sequence[Sequence[int]], collate: Callable) -> None:
        self.items, self.batches, self.collate = items, batches, collate

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Batch | UserError:
        """Errors are values here: raised in a worker process, one would come with its traceback as its message."""
        try:
            return self.collate([self.items[index] for index in self.batches[number]])
        except UserError as error:
            return error
