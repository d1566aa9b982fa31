"""The stage that scores a model on the benchmarks."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from lightning.pytorch import LightningModule
from torch import nn

from yopo_train.errors import UserError
from yopo_train.evaluation.benchmarks import get_benchmark
from yopo_train.evaluation.callback import BenchmarkCallback
from yopo_train.evaluation.results import Result
from yopo_train.evaluation.runner import evaluate
from yopo_train.models.offload import is_dispatched
from yopo_train.pipeline.context import Context, say
from yopo_train.pipeline.environment import describe_environment
from yopo_train.ranks import on_first_rank
from yopo_train.run_folder import RunFolder

SECTION = "benchmarks"
"""Of ``results.json``: stage to benchmark to what was found."""


class WorkModule(LightningModule):
    """Some work with a model where Lightning has put it: on the trainer's device, in its precision, on every rank.

    Parameters
    ----------
    model
        A multimodal model, pruned or not.
    work
        What is done with it in the one step there is.
    """

    def __init__(self, model: nn.Module, work: Callable[[], Any]) -> None:
        super().__init__()
        if is_dispatched(model):
            self.__dict__["model"] = model  # not a submodule: Lightning would move it
        else:
            self.model = model
        self.work = work

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """All the work."""
        self.work()


@dataclass(frozen=True)
class BenchmarksOf:
    """The benchmarks of one stage of a run.

    Parameters
    ----------
    context
        The run.
    stage
        base, pruned, recovered or trained.
    """

    context: Context
    stage: str

    @property
    def missing(self) -> list[str]:
        """Benchmarks without a score for what is asked now."""
        options, found = self.context.evaluation, self.context.run.results().get(SECTION, {}).get(self.stage, {})
        asked = {name: options.asked(name, self.context.seed) for name in options.names}
        return [name for name in options.names if found.get(name, {}).get("asked") != asked[name]]

    def score(self, names: list[str]) -> str:
        """Ask and score these benchmarks, and record each as it is done; one line for the user."""
        context = self.context
        context.to_stage(self.stage)
        found: dict[str, Result] = {}

        def work() -> None:
            for name in names:
                found[name] = self._score_one(name)

        trainer = context.trainers.for_work()
        trainer.validate(WorkModule(context.module.model, work), dataloaders=[0], verbose=False)
        said = [f"{name} {_said(result)}" for name, result in found.items()]
        return ", ".join(said)

    def _score_one(self, name: str) -> Result:
        context, options = self.context, self.context.evaluation
        items = context.benchmark_items(name)
        file = context.run.predictions / self.stage / f"{name}.jsonl"
        result = evaluate(
            context.module.model,
            context.module.processor,
            get_benchmark(name),
            items,
            protocol=options.protocol,
            batch_size=options.batch_size,
            file=file,
            max_new_tokens=options.max_new_tokens,
            num_workers=options.num_workers,
            use_cache=context.module.has_cache,
            progress=f"      {name}" if context.trainers.shows_progress else None,
        )
        context.record(f"{SECTION}.{self.stage}.{name}", self._entry(name, result))
        if result.headline is None:
            on_first_rank(lambda: self._hand_in(name, items, result))
        return result

    def _entry(self, name: str, result: Result) -> dict[str, Any]:
        module = self.context.module
        return result.as_dict() | {
            "model": module.base,
            "revision": module.revision,
            "stage": self.stage,
            "asked": self.context.evaluation.asked(name, self.context.seed),
            **describe_environment(),
        }

    def _hand_in(self, name: str, items: list[Any], result: Result) -> None:
        """The official submission file, where the answers are not public and there is such a file."""
        kind = "json" if name != "mmbench" else "xlsx" if find_spec("openpyxl") is not None else "tsv"
        file = self.context.run.predictions / self.stage / f"{name}-submission.{kind}"
        try:
            say(f"      to be handed in: {get_benchmark(name).submission(file, items, result.predictions)}")
        except UserError as error:
            say(f"      {error}")


def training_callbacks(context: Context) -> list[BenchmarkCallback]:
    """Benchmarks while the model is trained, where the configuration asks for them."""
    options = context.evaluation
    names = options.names_in_training
    if not names:
        return []
    limit = options.train_limit or options.limit
    items = {name: options.items(name, context.seed, limit) for name in names}
    numbers = {name: getattr(options, name) for name in ("protocol", "batch_size", "max_new_tokens", "num_workers")}
    return [BenchmarkCallback(items, options.every_n_steps, **numbers)]


def is_scored(context: Context, stage: str) -> Callable[[RunFolder], bool]:
    """Whether all benchmarks of a stage are scored, as the configuration asks for them now."""
    return lambda run: not BenchmarksOf(context, stage).missing


def _said(result: Result) -> str:
    return f"{result.score:.1f}" if result.score is not None else f"{result.items} answers"
