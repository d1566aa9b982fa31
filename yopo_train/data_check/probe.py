"""How long a training step takes, measured: a few steps on this machine, of which nothing is kept."""

import time
from statistics import median
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from yopo_train.pipeline import Context
from yopo_train.plan import PruningPlan

STEPS = 3
"""Measured, after one that warms up."""


class _Clock(Callback):
    """When each optimizer step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step > len(self.ends):
            if trainer.strategy.root_device.type == "cuda":
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())


def probe(context: Context, plan: PruningPlan | None) -> dict[str, Any]:
    """Load the model, put the plan on, and train `STEPS` steps on one device.

    Returns
    -------
    dict
        ``step_seconds``, their median; on a GPU ``peak_bytes``; and what they were measured on.
    """
    module, clock = context.module, _Clock()
    module.load()
    context.data.processor = module.processor
    if plan is not None:
        module.prune_with(plan)
    module.start_tuning()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    trainer = context.trainers.for_probe(STEPS + 1, clock)
    trainer.fit(module, datamodule=context.data)
    took = [end - start for start, end in zip(clock.ends, clock.ends[1:], strict=False)]
    on_gpu = trainer.strategy.root_device.type == "cuda"
    return {
        "step_seconds": median(took) if took else None,
        "steps": len(took),
        "device": str(trainer.strategy.root_device),
        "plan": plan.id if plan is not None else None,
        "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
    }
