"""The order in which rows are visited, on one process or many.

Both samplers ask ``torch.distributed`` when they are iterated, so they may be built before the processes exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from ..ranks import rank_and_world

GROUPED = 64
"""Batches, of all ranks together, whose rows are sorted by length among each other."""
STRETCH = 4096


class TrainSampler(Sampler[int]):
    """A permutation that follows from (seed, epoch) and nothing else.

    Ranks take turns, so that batch ``b`` of all ranks together is batch ``b`` of one process with a batch as large.
    All ranks get equally many rows: the last ``size % world`` rows of the permutation are left out.

    Parameters
    ----------
    sizes
        Number of rows; of each part of a mixture where there are several.
    seed
        Decides all permutations.
    epoch
        The first epoch; known from the start because worker processes ask for rows before Lightning names the epoch.
    done
        Rows of that epoch, on each rank, that an earlier process has trained on: they are left out. The length stays
        that of a whole epoch, as Lightning counts on from where it was.
    weights
        How often each part's rows are visited in an epoch: 2 is all of them twice, 0.25 a quarter of them, another
        one each epoch. Once each unless given.
    lengths : (rows,) int, optional
        Rows of about the same length then share a batch.
    batch_size
        Rows in a batch of one rank; read only with ``lengths``.
    """

    def __init__(
        self,
        sizes: int | Sequence[int],
        seed: int,
        epoch: int = 0,
        done: int = 0,
        weights: Sequence[float] | None = None,
        lengths: np.ndarray | None = None,
        batch_size: int = 1,
    ) -> None:
        self.sizes = [sizes] if isinstance(sizes, int) else list(sizes)
        self.weights = [1.0] * len(self.sizes) if weights is None else list(weights)
        self.seed, self.epoch = seed, epoch
        self.resumed, self.done = epoch, done
        self.lengths = None if lengths is None else torch.from_numpy(np.ascontiguousarray(lengths))
        self.batch_size = batch_size

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self.epoch = epoch

    @property
    def visits(self) -> list[int]:
        """Rows of each part in an epoch, all ranks together."""
        return [round(size * weight) for size, weight in zip(self.sizes, self.weights, strict=True)]

    def __iter__(self) -> Iterator[int]:
        rank, world = rank_and_world()
        order = self.order(world)
        mine = order[rank : len(order) - len(order) % world : world]
        if self.epoch == self.resumed:
            mine = mine[self.done :]
        for start in range(0, len(mine), STRETCH):  # a million Python integers at once would be 40 MB
            yield from mine[start : start + STRETCH].tolist()

    def __len__(self) -> int:
        return sum(self.visits) // rank_and_world()[1]

    def order(self, world: int) -> Tensor:
        """Rows of this epoch, of all ranks together."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        chosen = self._chosen(generator)
        order = torch.randperm(sum(self.visits), generator=generator)
        order = order if chosen is None else chosen[order]
        return order if self.lengths is None else _grouped(order, self.lengths, self.batch_size * world, generator)

    def _chosen(self, generator: torch.Generator) -> Tensor | None:
        """The rows, unshuffled; None where each is visited once."""
        if self.visits == self.sizes:
            return None
        parts, first = [], 0
        for size, visits in zip(self.sizes, self.visits, strict=True):
            whole, some = divmod(visits, size) if size else (0, 0)
            drawn = torch.randperm(size, generator=generator)[:some]
            parts += [first + torch.arange(size).repeat(whole), first + drawn]
            first += size
        return torch.cat(parts)


def _grouped(order: Tensor, lengths: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    """The order with rows of about the same length in each batch, and batches in any order.

    Rows are sorted only among `GROUPED` batches, so that chance goes on deciding which rows meet. A last batch that is
    not full stays the last.
    """
    stretch = torch.arange(len(order)) // (batch * GROUPED)
    by_length = torch.argsort(lengths[order], stable=True)
    order = order[by_length[torch.argsort(stretch[by_length], stable=True)]]
    full = len(order) // batch
    shuffled = order[: full * batch].view(full, batch)[torch.randperm(full, generator=generator)]
    return torch.cat([shuffled.flatten(), order[full * batch :]])


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
