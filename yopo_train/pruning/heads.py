"""Grouped-query attention when the query heads of a plan do not come in equal groups."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class HeadGroups:
    """Which KV head each of some query heads reads.

    Attributes
    ----------
    kv_of_head : Tensor
        ``(heads,)`` KV head of each query head.
    slots : Tensor
        ``(KV heads * group,)`` query head in each slot of its KV head; slots that no head fills repeat head 0.
    places : Tensor
        ``(heads,)`` slot of each query head.
    regular : bool
        Whether the heads fill the slots in their order, as those of an unpruned layer do.
    """

    kv_of_head: Tensor
    slots: Tensor
    places: Tensor
    regular: bool

    @classmethod
    def of(cls, kv_of_head: Tensor, kv_heads: int) -> HeadGroups:
        """Groups as large as the largest one that occurs."""
        counts = torch.bincount(kv_of_head, minlength=kv_heads)
        group = int(counts.max()) if len(kv_of_head) else 0
        by_kv = kv_of_head.argsort(stable=True)
        rank = torch.empty_like(kv_of_head)
        rank[by_kv] = torch.arange(len(by_kv), device=by_kv.device) - (counts.cumsum(0) - counts)[kv_of_head[by_kv]]
        places = kv_of_head * group + rank
        slots = places.new_zeros(kv_heads * group)
        slots[places] = torch.arange(len(places), device=places.device)
        order = torch.arange(len(slots), device=slots.device)
        return cls(kv_of_head, slots, places, regular=torch.equal(places, order))

    def to(self, device: torch.device) -> HeadGroups:
        """The same groups on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("kv_of_head", "slots", "places")}
        return replace(self, **moved)

    def pick(self, x: Tensor) -> Tensor:
        """Keys or values, KV heads in dimension 1, as the query heads read them: a copy for every query head."""
        return x[:, self.kv_of_head]

    def fold(self, q: Tensor, kv_heads: int) -> Tensor:
        """Queries of one token ``(batch, heads, 1, head_dim)`` to ``(batch, KV heads, group, head_dim)``.

        The heads of a group become queries of their KV head, so no key is copied.
        """
        q = q if self.regular else q[:, self.slots]
        return q.reshape(len(q), kv_heads, -1, q.shape[-1])

    def unfold(self, out: Tensor) -> Tensor:
        """Attention output of :meth:`fold`'s queries back to ``(batch, heads, 1, head_dim)``."""
        out = out.flatten(1, 2)
        return (out if self.regular else out[:, self.places]).unsqueeze(2)
