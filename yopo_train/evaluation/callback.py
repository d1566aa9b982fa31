"""Benchmarks while a model is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning as L

from ..errors import UserError
from ..models.modes import evaluating
from .benchmarks import get_benchmark
from .results import Result
from .runner import evaluate


class BenchmarkCallback(L.Callback):
    """Score the model on benchmarks every so many optimizer steps, and after the last one.

    Every number of every benchmark is logged as ``bench/<benchmark>/<name>``, like ``bench/pope/f1_mean``, to all
    loggers, at the number of steps done. They are ``trainer.callback_metrics`` too, so that ``ModelCheckpoint`` and
    ``EarlyStopping`` may name one as their ``monitor``; a checkpoint at the same step sees the new numbers.

    Works on any LightningModule with ``model``, ``processor`` and ``has_cache``, like `GenerationScorer`. Training is
    left as it would have gone on without: modes of modules and random numbers are not changed.

    Parameters
    ----------
    items
        Items of each benchmark by its name, or a function that gives them, which is called when training begins.
    every_n_steps
        Optimizer steps between two evaluations.
    protocol, batch_size, max_new_tokens, num_workers
        As `evaluate` has them.

    Attributes
    ----------
    results : dict
        Steps done to benchmark to `Result`.
    """

    def __init__(
        self,
        items: Mapping[str, Sequence[Any]] | Callable[[], Mapping[str, Sequence[Any]]],
        every_n_steps: int,
        protocol: str = "llava",
        batch_size: int = 16,
        max_new_tokens: int | None = None,
        num_workers: int = 0,
    ) -> None:
        if every_n_steps < 1:
            raise UserError(f"every_n_steps is {every_n_steps}, expected at least 1")
        self.items, self.every_n_steps, self.protocol = items, every_n_steps, protocol
        self.settings = {"batch_size": batch_size, "max_new_tokens": max_new_tokens, "num_workers": num_workers}
        self.results: dict[int, dict[str, Result]] = {}
        self._last = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.items = self.items() if callable(self.items) else self.items
        self._last = trainer.global_step  # nothing was done since the checkpoint that training goes on from

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *batch: Any) -> None:
        step = trainer.global_step
        due = step % self.every_n_steps == 0 or _is_last_step(trainer)
        if step == self._last or not due:
            return
        self._last = step
        self.results[step] = self._evaluate(trainer, pl_module)
        numbers = {
            f"bench/{name}/{key}": float(value)
            for name, result in self.results[step].items()
            for key, value in result.scores.items()
        }
        pl_module.log_dict(numbers, on_step=True, on_epoch=False, logger=False)  # for those who monitor
        for logger in trainer.loggers:  # log_dict would wait for the next of every log_every_n_steps
            logger.log_metrics(numbers, step=step)

    def _evaluate(self, trainer: L.Trainer, pl_module: Any) -> dict[str, Result]:
        with evaluating(pl_module.model), trainer.precision_plugin.forward_context():
            return {
                name: evaluate(
                    pl_module.model,
                    pl_module.processor,
                    get_benchmark(name),
                    items,
                    protocol=self.protocol,
                    use_cache=pl_module.has_cache,
                    **self.settings,
                )
                for name, items in self.items.items()
            }


def _is_last_step(trainer: L.Trainer) -> bool:
    """Whether training ends with this step, as far as one can know."""
    if 0 <= trainer.max_steps <= trainer.global_step:
        return True
    ends = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
    return trainer.should_stop or (trainer.is_last_batch and ends)
