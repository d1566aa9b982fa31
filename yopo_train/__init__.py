"""YOPO for real: prune the visual computation of a multimodal LLM once, and recover the accuracy with a short finetune.

    model, processor = load("llava-hf/llava-1.5-7b-hf")
    scores = calibrate(model, batches)
    plan = make_plan(scores, PlanConfig(preset="paper-25"), [(1, 24, 24)])
    prune(model, plan)

Importing the package changes nothing in any other library.
"""

from importlib import import_module

_HOME = {
    "load": "hub.load.load",
    "calibrate": "calibration.calibrate",
    "Scores": "calibration.Scores",
    "PlanConfig": "calibration.PlanConfig",
    "make_plan": "calibration.make_plan",
    "search_plan": "calibration.judging.search_plan",
    "Prompt": "cost.Prompt",
    "PruningPlan": "plan.PruningPlan",
    "prune": "pruning.prune",
    "unprune": "pruning.unprune",
    "active_plan": "pruning.active_plan",
    "dense_mode": "pruning.dense_mode",
    "UserError": "errors.UserError",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    """Import a public name when it is first used: a look at a plan file should not wait for transformers."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOME[name].rpartition(".")
    value = getattr(import_module(f".{module}", __name__), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
