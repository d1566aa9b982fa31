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

    Parameters
    ----------
    size
        Number of rows.
    seed
        Decides all permutations.
    epoch
        The first epoch; known from the start because worker processes ask for rows before Lightning names the epoch.
    done
        Rows of that epoch, on each rank, that an earlier process has trained on: they are left out. The length stays
        that of a whole epoch, as Lightning counts on from where it was.
    """

    def __init__(self, size: int, seed: int, epoch: int = 0, done: int = 0) -> None:
        self.size, self.seed, self.epoch = size, seed, epoch
        self.resumed, self.done = epoch, done

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rank, world = rank_and_world()
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.size, generator=generator).tolist()
        mine = order[rank : self.size - self.size % world : world]
        return iter(mine[self.done :] if self.epoch == self.resumed else mine)

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
