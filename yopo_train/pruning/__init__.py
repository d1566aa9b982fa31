"""The engine: a pruned model that skips the work its plan takes away from visual tokens."""

from .apply import active_plan, dense_mode, prune, unprune

__all__ = ["active_plan", "dense_mode", "prune", "unprune"]
