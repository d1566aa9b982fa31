"""The card's front matter: what the Hub searches, filters and shows beside the text."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from huggingface_hub import EvalResult, ModelCardData

from ..errors import UserError
from ..evaluation.benchmarks import BENCHMARKS
from ..evaluation.benchmarks.benchmark import HUB_OWNERS
from ..evaluation.table import TITLES
from ..plan import PruningPlan
from .base import Base
from .private import last_name

TASK = "image-text-to-text"
LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")


@dataclass
class Published:
    """Everything that a card is made from; free of local paths already.

    Parameters
    ----------
    kind
        adapter, plan or model, as in `Contents`.
    base
        The base model.
    results, config
        The run's.
    plan
        None where nothing is pruned.
    repo_id
        Where it will lie on the Hub, for the code samples; None where that is not known.
    license
        A licence's identifier on the Hub; None is that of the base model.
    datasets
        Hub ids of the data that it was made with.
    questions
        What the run's own test questions are called.
    heat_map
        Name of the picture of the head ratio; None where there is none.
    """

    kind: Literal["adapter", "plan", "model"]
    base: Base
    results: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    plan: PruningPlan | None = None
    repo_id: str | None = None
    license: str | None = None
    datasets: list[str] = field(default_factory=list)
    questions: str = "the run's own questions"
    heat_map: str | None = None

    @property
    def name(self) -> str:
        """What the published model is called."""
        if self.repo_id is not None:
            return self.repo_id.rpartition("/")[2]
        kind = {"adapter": "lora", "plan": "plan", "model": "merged"}[self.kind]
        return f"{last_name(self.base.called)}-{'yopo-' if self.plan is not None else ''}{kind}"

    @property
    def stages(self) -> tuple[str, ...]:
        """What the published model may be called in the run's results."""
        return ("pruned",) if self.kind == "plan" else ("recovered", "trained")

    @property
    def stage(self) -> str | None:
        """The stage of the run that is published; None where it was not scored on the run's own questions."""
        return next((stage for stage in self.stages if stage in self.results.get("test", {})), None)


def check_license(license: str | None) -> None:
    """Raise a ``UserError`` for what cannot be a licence's identifier."""
    if license is not None and not LICENSE.fullmatch(license):
        raise UserError(f"license is {license!r}, expected an identifier of the Hub, like apache-2.0")


def card_data(published: Published) -> ModelCardData:
    """The front matter."""
    base, plan = published.base, published.plan
    tags = ["yopo-train", "multimodal"]
    tags += ["yopo", "visual-token-pruning", "arxiv:2410.06169"] if plan is not None else []
    tags += ["lora"] if published.kind == "adapter" else []
    model_type = plan.architecture.get("model_type") if plan is not None else None
    tags += [model_type] if isinstance(model_type, str) else []
    results = eval_results(published)
    return ModelCardData(
        base_model=base.name,
        base_model_relation=_relation(published) if base.name is not None else None,
        library_name={"adapter": "peft", "plan": "yopo-train", "model": "transformers"}[published.kind],
        pipeline_tag=TASK,
        tags=tags,
        datasets=published.datasets or None,
        **_license(published),
        model_name=published.name,
        eval_results=results or None,
    )


def _relation(published: Published) -> str:
    """What the Hub calls the way from the base to this."""
    return {"adapter": "adapter", "plan": "adapter", "model": "finetune"}[published.kind]


def _license(published: Published) -> dict[str, str]:
    """The given licence, or a pointer to that of the base: an adapter of it is hardly freer."""
    if published.license is not None:
        return {"license": published.license}
    about = {"license": "other", "license_name": "that-of-the-base-model"}
    if published.base.name is not None:
        about["license_link"] = f"https://huggingface.co/{published.base.name}"
    return about


# -- scores ------------------------------------------------------------------------------------------------------------
def eval_results(published: Published) -> list[EvalResult]:
    """The published model's scores, for the card's ``model-index``."""
    return [*_own(published), *_benchmarks(published)]


def _own(published: Published) -> list[EvalResult]:
    """Accuracy on the run's own test questions."""
    if published.stage is None:
        return []
    score = published.results["test"][published.stage]
    where = published.datasets[0] if published.datasets else published.questions
    accuracies = {"": score["accuracy"]} | {f" ({kind})": value for kind, value in score["kinds"].items()}
    return [
        EvalResult(
            task_type=TASK,
            task_name="Visual question answering",
            dataset_type=where,
            dataset_name=published.questions,
            dataset_split="test",
            metric_type="exact_match",
            metric_name=f"Exact match{kind}, %",
            metric_value=round(100 * value, 2),
        )
        for kind, value in accuracies.items()
    ]


def _benchmarks(published: Published) -> list[EvalResult]:
    """The benchmarks' headline scores, on the scale of their protocol's tables."""
    stages = published.results.get("benchmarks", {})
    stage = next((stage for stage in published.stages if stages.get(stage)), None)
    return [
        EvalResult(
            task_type=TASK,
            task_name="Visual question answering",
            dataset_type=f"{HUB_OWNERS[0]}/{BENCHMARKS[name].hub}",
            dataset_name=TITLES[name]
            if (limit := found["asked"]["limit"]) is None
            else f"{TITLES[name]} ({limit} items)",
            dataset_split=found["asked"]["split"],
            metric_type=found["headline"],
            metric_name=f"{found['headline']}, protocol {found['protocol']}",
            metric_value=round(found["score"], 4),
        )
        for name, found in stages.get(stage, {}).items()
        if name in BENCHMARKS and found["score"] is not None
    ]
