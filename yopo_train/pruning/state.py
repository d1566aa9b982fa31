"""What a pruned model remembers: its plan, the order of its layers, and how to undo both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import MethodType

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..errors import UserError
from ..plan import PruningPlan
from .heads import HeadGroups
from .order import LayerOrder


@dataclass
class PruneState:
    """Kept as ``yopo_state`` on the pruned text model and on every other module of which it replaces a method.

    Attributes
    ----------
    enabled : bool
        False computes every token as text, which is the base model.
    orders : dict
        Layer number to its order, for the layers below the visual depth; empty in the reference backend.
    replaced : dict
        Module and method name to the method that was there, whether it stood on the instance itself, put there by
        somebody else, and the method that is there now. :func:`unprune` puts the first back.
    """

    plan: PruningPlan
    backend: str
    enabled: bool = True
    orders: dict[int, LayerOrder] = field(default_factory=dict)
    handles: list[RemovableHandle] = field(default_factory=list)
    replaced: dict[tuple[nn.Module, str], tuple[Callable, bool, Callable]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._id, self._dense = self.plan.id, self.plan.is_dense
        self._groups: dict[tuple, tuple[HeadGroups, HeadGroups]] = {}

    def replace(self, module: nn.Module, name: str, function: Callable) -> None:
        """Put a function on one instance as its method; it finds this state as ``self.yopo_state``."""
        before, was_its_own = getattr(module, name), name in vars(module)
        setattr(module, name, MethodType(function, module))
        self.replaced[module, name] = before, was_its_own, getattr(module, name)
        module.yopo_state = self

    def check_still_there(self) -> None:
        """Raise a ``UserError`` where somebody has put a method of theirs on top of one of ours."""
        for (module, name), (_, _, ours) in self.replaced.items():
            if vars(module).get(name) is not ours:
                raise UserError(
                    f"{name} of a {type(module).__name__} was replaced after the plan was put on, as accelerate does: "
                    "expected that to be taken off first, and the plan after it"
                )

    def put_back(self) -> None:
        """Undo every :meth:`replace` and remove all hooks."""
        for (module, name), (before, was_its_own, _) in self.replaced.items():
            delattr(module, name)
            vars(module).pop("yopo_state", None)
            if was_its_own:
                setattr(module, name, before)
        for handle in self.handles:
            handle.remove()

    def original(self, module: nn.Module, name: str) -> Callable:
        """The method that :meth:`replace` has put aside."""
        return self.replaced[module, name][0]

    @property
    def prunes(self) -> bool:
        """Whether visual tokens are treated in their own way now; a plan that prunes nothing leaves the base model."""
        return self.enabled and not self._dense

    @property
    def tag(self) -> str:
        """Marks KV caches: keys of one plan are of no use under another."""
        return self._id if self.prunes else "dense"

    def order(self, layer: int, device: torch.device) -> LayerOrder | None:
        """A layer's order on the device that the model is on now, None from the visual depth on."""
        order = self.orders.get(layer)
        if order is not None and order.kv_of_head.device != device:
            order = self.orders[layer] = order.to(device)
        return order

    def head_groups(
        self, layer: int, split: bool, device: torch.device
    ) -> tuple[HeadGroups, HeadGroups] | tuple[None, None]:
        """KV heads of the active and of the other query heads, None where each query head has its own.

        Without ``split`` no head counts as active, and those of a fixed block stand in the base model's order.
        """
        dims = self.plan.dims
        if dims.heads == dims.kv_heads:
            return None, None
        order = self.order(layer, device)
        if order is not None and not split and "self_attn" in order.fixed:
            order = None
        key = (layer if order is not None else None, split, device)
        if key not in self._groups:
            plain = torch.arange(dims.kv_heads).repeat_interleave(dims.heads // dims.kv_heads)
            kv_of_head = plain if order is None else order.kv_of_head.cpu()
            active, active_kv = (order.active_heads, order.active_kv_heads) if split and order is not None else (0, 0)
            parts = (kv_of_head[:active], active_kv), (kv_of_head[active:], dims.kv_heads)
            self._groups[key] = tuple(HeadGroups.of(*part).to(device) for part in parts)
        return self._groups[key]
