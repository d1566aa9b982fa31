"""The plans that a search has judged: how many, the best of them, and all of them for ``search.json``."""

from collections.abc import Callable
from dataclasses import dataclass

from yopo_train.calibration.drafts import Draft, Drafting
from yopo_train.calibration.judge import Judgement, OutputJudge
from yopo_train.calibration.plan_config import PlanConfig


@dataclass(frozen=True, eq=False)
class Trial:
    """One judged plan of a search: which step made it, what it is, what it costs and what it changes."""

    stage: str
    draft: Draft
    cost: float
    judgement: Judgement


class Trials:
    """All judged plans of one search.

    Parameters
    ----------
    judge
        Has been given the calibration prompts.
    drafting
        Turns drafts into plans.
    config
        The budget, and how many plans may be tried.
    on_evaluation
        Called after each judged plan with the number of plans so far.
    """

    def __init__(
        self, judge: OutputJudge, drafting: Drafting, config: PlanConfig, on_evaluation: Callable[[int], None]
    ) -> None:
        self.judge, self.drafting, self.config, self.on_evaluation = judge, drafting, config, on_evaluation
        self.all: list[Trial] = []
        self.evaluations = 0

    @property
    def left(self) -> int:
        """How many plans may still be judged."""
        return self.config.evaluations - self.evaluations

    @property
    def spent(self) -> bool:
        """Whether no more plans may be judged."""
        return self.left <= 0

    @property
    def best(self) -> Trial:
        """The plan under the budget with the least KL; of equal ones the cheapest."""
        fitting = [trial for trial in self.all if trial.cost <= self.config.share]
        return min(fitting, key=lambda trial: (trial.judgement.kl, trial.cost))

    def add(self, stage: str, draft: Draft) -> Trial:
        """Judge a plan that might be chosen."""
        trial = Trial(stage, draft, self.drafting.cost(draft), self.judged(draft))
        self.all.append(trial)
        return trial

    def judged(self, draft: Draft, samples: int | None = None) -> Judgement:
        """Judge a plan that only shows something: on so many prompts, or on all."""
        judgement = self.judge(self.drafting.plan(draft), samples)
        self.evaluations += 1
        self.on_evaluation(self.evaluations)
        return judgement

    def as_dict(self) -> dict:
        """JSON-able: what was searched for, which plan was the best, and every plan that might have been."""
        return {
            "measure": self.config.measure,
            "budget": self.config.share,
            "samples": self.judge.samples,
            "answer_tokens": self.judge.tokens,
            "evaluations": self.evaluations,
            "chosen": self.drafting.plan(self.best.draft).id,
            "trace": [self._entry(step, trial) for step, trial in enumerate(self.all)],
        }

    def _entry(self, step: int, trial: Trial) -> dict:
        plan = self.drafting.finish(trial.draft)
        visual = slice(0, plan.depth)
        return {
            "step": step,
            "stage": trial.stage,
            "plan": plan.id,
            "depth": plan.depth,
            "radius": plan.radius,
            "heads": float(plan.heads[visual].float().mean()),
            "channels": float(plan.channels[visual].float().mean()),
            "share": plan.cost["visual_share"],
            "cost": trial.cost,
            "kl": trial.judgement.kl,
            "agreement": trial.judgement.agreement,
        }
