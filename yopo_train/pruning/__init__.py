"""The engine: a pruned model that skips the work its plan takes away from visual tokens."""

from .apply import active_plan, base_order, dense_mode, prune, to_base_order, to_plan_order, unprune
from .inputs import refuse_visual_labels

__all__ = [
    "active_plan",
    "base_order",
    "dense_mode",
    "prune",
    "refuse_visual_labels",
    "to_base_order",
    "to_plan_order",
    "unprune",
]
