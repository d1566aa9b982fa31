"""The order in which rows are visited, on one process or many.

Both samplers ask ``torch.distributed`` when they are iterated, so they may be built before the processes exist.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch.utils.data import Sampler


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class TrainSampler(Sampler[int]):
    """A permutation that follows from (seed, epoch) and nothing else.

    Ranks take turns, so that batch ``b`` of all ranks together is batch ``b`` of one process with a batch as large.
    All ranks get equally many rows: the last ``size % world`` rows of the permutation are left out.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed, self.epoch = size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rank, world = rank_and_world()
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.size, generator=generator).tolist()
        return iter(order[rank : self.size - self.size % world : world])

    def __len__(self) -> int:
        return self.size // rank_and_world()[1]


class EvalSampler(Sampler[int]):
    """Every row exactly once over all ranks, in order; the last ranks may get one row less."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __iter__(self) -> Iterator[int]:
        rank, world = rank_and_world()
        return iter(range(rank, self.size, world))

    def __len__(self) -> int:
        rank, world = rank_and_world()
        return len(range(rank, self.size, world))
