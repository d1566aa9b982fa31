"""What each kind of pruning changes in the answers by itself: KL against depth, radius, heads and channels."""

from collections.abc import Callable, Iterator
from typing import Any, get_args

import torch
from torch import Tensor

from yopo_train.calibration.auto import spread
from yopo_train.calibration.drafts import Draft, Drafting
from yopo_train.calibration.judge import OutputJudge
from yopo_train.calibration.plan_config import Choice, PlanConfig
from yopo_train.calibration.planner import ranks
from yopo_train.calibration.scores import Scores
from yopo_train.cost import Grid, Prompt

DEPTHS = 16  # values of the depth, at most
RADII = (0, 1, 2, 3, 5, 8, None)
HEAD_RATIOS = (1.0, 0.75, 0.5, 0.25, 0.125)
CHANNEL_RATIOS = (1.0, 0.5, 0.25, 0.125, 0.0625)
SEEDS = {choice: 3 if choice == "random" else 1 for choice in get_args(Choice) if choice != "vote"}
"""How often each choice is drawn: a single random one may be lucky."""


def curves(
    judge: OutputJudge,
    scores: Scores,
    prompt: Prompt | list[Grid],
    seed: int = 0,
    on_evaluation: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """One curve for each kind of pruning, everything else as in the base model.

    Parameters
    ----------
    judge
        Has been given the calibration prompts.
    scores
        What calibration measured on the model.
    prompt
        A typical prompt, or the grids of its images.
    seed
        Of the first random choice; the others follow.
    on_evaluation
        Called after each judged plan with the number of plans so far.

    Returns
    -------
    dict
        JSON-able: ``depth`` and ``radius`` are lists of points ``{value, kl, agreement, share}``; ``heads`` and
        ``channels`` have such a list for each choice, the value a ratio; random is there with several seeds. ``share``
        is of the visual FLOPs, ``kl`` in nats an answer token.
    """
    drawing = _Drawing(judge, scores, prompt, seed, on_evaluation)
    return {
        "samples": judge.samples,
        "answer_tokens": judge.tokens,
        "depth": [drawing.point(depth, depth=depth) for depth in spread(range(scores.dims.layers, 0, -1), DEPTHS)],
        "radius": [drawing.point(radius, radius=radius) for radius in RADII],
        "heads": {choice: list(drawing.heads(choice)) for choice in SEEDS},
        "channels": {choice: list(drawing.channels(choice)) for choice in SEEDS},
    }


def number_of_points(layers: int) -> int:
    """How many plans `curves` judges for a model of so many layers."""
    return min(layers, DEPTHS) + len(RADII) + sum(SEEDS.values()) * (len(HEAD_RATIOS) + len(CHANNEL_RATIOS))


class _Drawing:
    def __init__(
        self,
        judge: OutputJudge,
        scores: Scores,
        prompt: Prompt | list[Grid],
        seed: int,
        on_evaluation: Callable[[int], None],
    ) -> None:
        self.judge, self.dims, self.on_evaluation = judge, scores.dims, on_evaluation
        self.ranks = {
            choice: [
                ranks(self.dims, scores, PlanConfig(budget=1.0, choice=choice, seed=seed + n)) for n in range(times)
            ]
            for choice, times in SEEDS.items()
        }
        self.prompt, self.done = prompt, 0

    def heads(self, choice: str) -> Iterator[dict[str, Any]]:
        for ranked in self.ranks[choice]:
            for ratio in HEAD_RATIOS:
                keep = max(1, round(ratio * self.dims.heads))
                yield self.point(keep / self.dims.heads, ranked, heads=keep)

    def channels(self, choice: str) -> Iterator[dict[str, Any]]:
        for ranked in self.ranks[choice]:
            for ratio in CHANNEL_RATIOS:
                keep = max(1, round(ratio * self.dims.intermediate))
                yield self.point(keep / self.dims.intermediate, ranked, channels=keep)

    def point(
        self,
        value: float | None,
        ranked: tuple[Tensor, Tensor] | None = None,
        depth: int | None = None,
        radius: int | None = None,
        heads: int | None = None,
        channels: int | None = None,
    ) -> dict[str, Any]:
        """The plan of one value; None leaves what it is about as in the base model."""
        dims, (head_rank, channel_rank) = self.dims, ranked or self.ranks["score"][0]
        draft = Draft(
            depth=dims.layers if depth is None else depth,
            radius=radius,
            heads=head_rank < (dims.heads if heads is None else heads),
            channels=torch.full((dims.layers,), dims.intermediate if channels is None else channels),
        )
        drafting = Drafting(dims, self.prompt, "visual_flops", channel_rank)
        judged = self.judge(drafting.plan(draft))
        self.done += 1
        self.on_evaluation(self.done)
        return {"value": value, "kl": judged.kl, "agreement": judged.agreement, "share": drafting.cost(draft)}
