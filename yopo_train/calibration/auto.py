"""The plan that changes the model's answers least: a search over depth, heads, channels and radius.

Every candidate is judged by `OutputJudge`; the scores only say in which order heads and channels are worth trying.

1. *depth*: each visual depth with nothing else pruned. What a depth costs alone, no plan of that depth wins back.
2. *grid*: depths and head ratios, heads by score, channels with the rest of the budget: which depths are promising.
3. *heads*: from all heads of the best depths downwards. Each round leaves out one head (or a few that are alike) at a
   time, drops those that are missed least, over all layers together, and gives channels what they leave.
4. *channels*: layer by layer, half or twice as many as the others.
5. *radius*: smaller and larger ones; what they save or cost goes to the channels.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from yopo_train.calibration.drafts import Draft, Drafting
from yopo_train.calibration.judge import OutputJudge
from yopo_train.calibration.plan_config import PlanConfig
from yopo_train.calibration.planner import DEFAULT_RADIUS, check_dims, provenance, ranks, too_small
from yopo_train.calibration.scores import Scores
from yopo_train.calibration.trials import Trial, Trials
from yopo_train.cost import Grid, Prompt
from yopo_train.plan import PruningPlan

HEAD_RATIOS = (1.0, 0.75, 0.5, 0.25)
RADII = (1, 2, 4, 6, None)
GRID_DEPTHS = 10  # depths that step 2 looks at, at most
BEAM = 2  # depths that step 3 follows
ABLATION_SAMPLES = 32  # prompts that show whether a head is missed; finished plans are judged on all
FIRST_CUT, CUT = 0.4, 0.25  # share of the heads dropped in a round
HOPELESS = 2.0  # a line of step 3 ends where its KL is so many times the best


class PlanSearch:
    """One search.

    Parameters
    ----------
    judge
        Has been given the calibration prompts.
    scores
        What calibration measured.
    config
        The budget, what may be pruned, and how many plans may be tried.
    prompt
        A typical prompt, or the grids of its images where only visual FLOPs count.
    on_evaluation
        Called after each judged plan with the number of plans so far.

    Raises
    ------
    UserError
        A wrong value in ``config``, or a budget that no plan meets; says the smallest possible.
    """

    def __init__(
        self,
        judge: OutputJudge,
        scores: Scores,
        config: PlanConfig,
        prompt: Prompt | list[Grid],
        on_evaluation: Callable[[int], None] = lambda done: None,
    ) -> None:
        config.check()
        check_dims(config, scores.dims)
        self.scores, self.config = scores, config
        self.dims, self.budget = scores.dims, config.share
        self.head_rank, channel_rank = ranks(scores.dims, scores, config)
        self.drafting = Drafting(scores.dims, prompt, config.measure, channel_rank)
        self.trials = Trials(judge, self.drafting, config, on_evaluation)
        self.seconds = 0.0
        self._weights = torch.ones(self.dims.layers)

    def run(self) -> PruningPlan:
        """Search, and give the plan with the least KL divergence under the budget."""
        started = time.perf_counter()
        promising = self._grid(self._depths())
        if "heads" in self.config.mechanisms and self.config.choice == "score":
            self._eliminate(promising)
        if "channels" in self.config.mechanisms:
            self._shift_channels()
        if "neighbor" in self.config.mechanisms and self.config.radius is None:
            self._vary_radius()
        self.seconds = time.perf_counter() - started
        return self._finished(self.trials.best)

    def trace(self) -> dict:
        """What was tried, for ``search.json``."""
        return {**self.trials.as_dict(), "seconds": self.seconds}

    # -- steps ----------------------------------------------------------------------------------------------------
    def _depths(self) -> list[int]:
        """Depths with which a plan can meet the budget, the deepest first."""
        layers, config = self.dims.layers, self.config
        wanted = [config.depth or layers] if config.depth or "depth" not in config.mechanisms else range(layers, 0, -1)
        cheapest = {depth: self._smallest(depth) for depth in wanted}
        depths = [depth for depth in wanted if self.drafting.cost(cheapest[depth]) <= self.budget]
        if not depths:
            raise too_small(config, min(self.drafting.cost(draft) for draft in cheapest.values()))
        return depths

    def _smallest(self, depth: int) -> Draft:
        """The cheapest plan of a depth."""
        heads = torch.zeros(self.dims.layers, self.dims.heads, dtype=torch.bool)
        if "heads" not in self.config.mechanisms:
            heads[:] = True
        channels = 0 if "channels" in self.config.mechanisms else self.dims.intermediate
        radius = self.config.radius or 0
        return Draft(depth, radius if self._has_radius else None, heads, torch.full((self.dims.layers,), channels))

    @property
    def _has_radius(self) -> bool:
        return "neighbor" in self.config.mechanisms

    @property
    def _radius(self) -> int | None:
        radius = DEFAULT_RADIUS if self.config.radius is None else self.config.radius
        return radius if self._has_radius else None

    def _grid(self, depths: list[int]) -> list[Draft]:
        """The best draft of each depth, the most promising first."""
        few = max(1, min(GRID_DEPTHS, self.config.evaluations // 2))
        alone = {depth: self._depth_alone(depth) for depth in spread(depths, few)}
        found: dict[int, Trial] = {}
        for depth in sorted(alone, key=alone.get):
            for ratio in HEAD_RATIOS if "heads" in self.config.mechanisms else (1.0,):
                hopeless = found and alone[depth] > min(trial.judgement.kl for trial in found.values())
                if (hopeless and len(found) >= BEAM) or (found and self.trials.spent):
                    continue
                keep = max(1, round(ratio * self.dims.heads))
                draft = self._filled(Draft(depth, self._radius, self.head_rank < keep, self._channels(0)))
                if draft is None:
                    continue
                trial = self.trials.add("grid", draft)
                if depth not in found or trial.judgement.kl < found[depth].judgement.kl:
                    found[depth] = trial
        if not found:  # one head of each layer is too much already
            self.trials.add("grid", self._filled(self._smallest(depths[-1])))
            return [self.trials.best.draft]
        return [trial.draft for trial in sorted(found.values(), key=lambda trial: trial.judgement.kl)]

    def _depth_alone(self, depth: int) -> float:
        """KL of a plan that prunes nothing but the depth."""
        everything = torch.ones(self.dims.layers, self.dims.heads, dtype=torch.bool)
        draft = Draft(depth, None, everything, self._channels(self.dims.intermediate))
        return self.trials.add("depth", draft).judgement.kl

    def _eliminate(self, promising: list[Draft]) -> None:
        """Drop heads by what their absence changes, in the best depths."""
        lines = []
        for draft in promising[:BEAM]:
            heads = torch.ones_like(draft.heads)
            heads[draft.depth :] = False
            lines.append((replace(draft, heads=heads), FIRST_CUT))
        while lines:
            tried = []
            for draft, cut in lines:
                after = self._without_least_missed(draft, cut)
                if after is not None:
                    tried.append(self.trials.add("heads", after))
            tried.sort(key=lambda trial: trial.judgement.kl)
            worst = HOPELESS * self.trials.best.judgement.kl
            lines = [(trial.draft, CUT) for trial in tried[:1] if trial.judgement.kl <= worst]

    def _without_least_missed(self, draft: Draft, cut: float) -> Draft | None:
        """A draft with fewer heads that meets the budget; None where there is none, or no time to find it."""
        missed = self._missed(draft)
        if missed is None:
            return None
        order = missed.flatten().argsort()  # inactive heads are infinitely missed
        active = int(draft.heads.sum())
        for drop in range(max(1, int(cut * active)), active):
            heads = draft.heads.clone()
            heads.view(-1)[order[:drop]] = False
            filled = self._filled(replace(draft, heads=heads))
            if filled is not None:
                return filled
        return None

    def _missed(self, draft: Draft) -> Tensor | None:
        """KL without each active head, ``(layers, heads)``; heads of a layer go together where time is short."""
        counts = draft.heads[: draft.depth].sum(dim=1).tolist()
        active, left = sum(counts), self.trials.left
        group = -(-active // max(1, left // 2))
        if active < 2 or group > self.dims.heads or sum(-(-count // group) for count in counts) >= left:
            return None
        missed = torch.full(draft.heads.shape, torch.inf)
        for layer in range(draft.depth):
            here = draft.heads[layer].nonzero().flatten()
            here = here[self.head_rank[layer, here].argsort(descending=True)]  # those of a like score together
            for some in here.split(group) if len(here) else ():
                heads = draft.heads.clone()
                heads[layer, some] = False
                judged = self.trials.judged(replace(draft, heads=heads), ABLATION_SAMPLES)
                missed[layer, some] = judged.kl / len(some)
        return missed

    def _shift_channels(self) -> None:
        """Give single layers half or twice the channels of the others, while that helps."""
        for layer in range(self.trials.best.draft.depth - 1):  # the last visual layer has no use for any
            for factor in (0.5, 2.0):
                if self.trials.spent:
                    return
                weights = self._weights.clone()
                weights[layer] *= factor
                draft = self.drafting.filled(self.trials.best.draft, self.budget, weights)
                before = self.trials.best
                if draft is not None and self.trials.add("channels", draft).judgement.kl < before.judgement.kl:
                    self._weights = weights

    def _vary_radius(self) -> None:
        """Other radii for the best plan."""
        for radius in RADII:
            draft = self._filled(replace(self.trials.best.draft, radius=radius))
            if draft is not None and not self.trials.spent:
                self.trials.add("radius", draft)

    # -- one plan -------------------------------------------------------------------------------------------------
    def _channels(self, count: int) -> Tensor:
        return torch.full((self.dims.layers,), count)

    def _filled(self, draft: Draft) -> Draft | None:
        """A draft with the channels that the budget leaves, None where it is over the budget without any."""
        if "channels" in self.config.mechanisms:
            return self.drafting.filled(draft, self.budget, self._weights)
        draft = replace(draft, channels=self._channels(self.dims.intermediate))
        return draft if self.drafting.cost(draft) <= self.budget else None

    def _finished(self, trial: Trial) -> PruningPlan:
        plan, scores = self.drafting.finish(trial.draft), self.scores
        plan.base_model, plan.revision = scores.base_model, scores.revision
        plan.made_by = provenance(self.config, scores) | {
            "kl": trial.judgement.kl,
            "agreement": trial.judgement.agreement,
            "evaluations": self.trials.evaluations,
        }
        return plan


def spread(values: Sequence[int], most: int) -> list[int]:
    """At most so many of the values, the first and the last among them."""
    if len(values) <= most or most == 1:
        return list(values[:most])
    return [values[round(place * (len(values) - 1) / (most - 1))] for place in range(most)]
