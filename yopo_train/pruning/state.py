"""What a pruned model remembers: its plan, the order of its layers, and how to undo both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..plan import PruningPlan
from .order import LayerOrder


@dataclass
class PruneState:
    """Kept as ``yopo_state`` on the pruned text model.

    Attributes
    ----------
    enabled : bool
        False computes every token as text, which is the base model.
    orders : dict
        Layer number to its order, for the layers below the visual depth; empty in the reference backend.
    forwards : dict
        The ``forward`` that somebody else had put on a module's instance; :func:`unprune` puts it back.
    """

    plan: PruningPlan
    backend: str
    enabled: bool = True
    orders: dict[int, LayerOrder] = field(default_factory=dict)
    handles: list[RemovableHandle] = field(default_factory=list)

    forwards: dict[nn.Module, Callable] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._id, self._dense = self.plan.id, self.plan.is_dense

    @property
    def prunes(self) -> bool:
        """Whether visual tokens are treated in their own way now; a plan that prunes nothing leaves the base model."""
        return self.enabled and not self._dense

    @property
    def tag(self) -> str:
        """Marks KV caches: keys of one plan are of no use under another."""
        return self._id if self.prunes else "dense"

    def kv_of_head(self, layer: int, device: torch.device) -> Tensor | None:
        """``(heads,)`` KV head of each query head in the layer's order, None where each has its own."""
        dims = self.plan.dims
        if dims.heads == dims.kv_heads:
            return None
        if layer in self.orders:
            return self.orders[layer].kv_of_head.to(device)
        group = dims.heads // dims.kv_heads
        return torch.arange(dims.kv_heads, device=device).repeat_interleave(group)
