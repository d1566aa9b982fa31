"""What several processes of one run tell each other; a single process gets its own value back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from lightning.pytorch.utilities.rank_zero import rank_zero_only


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def is_first_rank() -> bool:
    """Whether this is the first process of many, or the only one; known before they are connected."""
    return rank_zero_only.rank == 0


def on_first_rank(work: Callable[[], Any]) -> Any:
    """Call on one process of many; the others go on, and meet it at their next common call."""
    return rank_zero_only(work)()


def wait_for_all() -> None:
    """A barrier, where there are several processes."""
    if rank_and_world()[1] > 1:
        dist.barrier()


def of_first_rank(value: Any) -> Any:
    """The first process's value on all of them: what it has written meanwhile must not lead the others elsewhere."""
    if rank_and_world()[1] == 1:
        return value
    found = [value]
    dist.broadcast_object_list(found)
    return found[0]


def of_all_ranks(value: Any) -> list[Any]:
    """The value of each process, by rank, on all of them."""
    world = rank_and_world()[1]
    if world == 1:
        return [value]
    found: list[Any] = [None] * world
    dist.all_gather_object(found, value)
    return found
