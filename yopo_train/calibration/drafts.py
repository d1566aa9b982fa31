"""Drafts of plans: what a planner varies, what a draft costs, and how many channels a budget leaves it."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from yopo_train.cost import Grid, Prompt, dense_visual_flops, kv_cache_bytes, prefill_flops, visual_flops
from yopo_train.errors import UserError
from yopo_train.plan import ModelDims, PruningPlan

Measure = Literal["visual_flops", "prefill_flops", "kv_bytes"]


@dataclass(frozen=True, eq=False)
class Draft:
    """A plan to be.

    Parameters
    ----------
    depth
        Visual depth.
    radius
        Neighbor radius; None is no restriction.
    heads
        Active heads, bool ``(layers, heads)``; rows from the depth on do not matter.
    channels
        Number of active channels of each layer, the best ones by rank; integers ``(layers,)``.
    """

    depth: int
    radius: int | None
    heads: Tensor
    channels: Tensor


class Drafting:
    """Turns drafts into plans, for one model, prompt and ranking of channels.

    Parameters
    ----------
    dims
        The model's.
    prompt
        A typical prompt, or the grids of its images where only the visual FLOPs count.
    measure
        What is counted.
    channel_rank
        Rank of each channel in its layer, 0 is kept first; integers ``(layers, intermediate)``.

    Raises
    ------
    UserError
        The prompt has no image.
    """

    def __init__(self, dims: ModelDims, prompt: Prompt | list[Grid], measure: Measure, channel_rank: Tensor) -> None:
        self.dims, self.measure, self.channel_rank = dims, measure, channel_rank
        self.prompt = prompt if isinstance(prompt, Prompt) else Prompt(prompt, 0)
        if not self.prompt.visual_tokens:
            raise UserError("no grid given to plan for, expected the grids of at least one image")
        self.base_visual_flops = dense_visual_flops(dims, self.prompt.visual_tokens)
        self._base = self._measured(PruningPlan.dense(dims))

    def plan(self, draft: Draft) -> PruningPlan:
        """The masks of a draft."""
        heads, channels = draft.heads.clone(), self.channel_rank < draft.channels[:, None]
        heads[draft.depth :], channels[draft.depth :] = False, False
        return PruningPlan(self.dims, heads, channels, draft.radius, draft.depth)

    def cost(self, draft: Draft) -> float:
        """Cost of a draft, as a share of the base model's."""
        return self._measured(self.plan(draft)) / self._base

    def filled(self, draft: Draft, budget: float, weights: Tensor | None = None) -> Draft | None:
        """The draft with as many channels as the budget leaves, None where it leaves less than none.

        Parameters
        ----------
        weights
            Share of channels of each layer beside the others', float ``(layers,)``; None gives all layers the same.
        """
        weights = torch.ones(self.dims.layers) if weights is None else weights

        def step(number: int) -> Draft:
            counts = (number * weights).round().clamp(max=self.dims.intermediate).long()
            return replace(draft, channels=counts)

        if self.cost(step(0)) > budget:
            return None
        low, high = 0, int(self.dims.intermediate / float(weights.min()))
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.cost(step(middle)) <= budget else (low, middle - 1)
        return step(low)

    def finish(self, draft: Draft) -> PruningPlan:
        """The plan with its predicted cost."""
        plan = self.plan(draft)
        flops = visual_flops(plan, self.prompt.grids)
        plan.cost = {
            "grids": [list(grid) for grid in self.prompt.grids],
            "visual_flops": flops,
            "base_visual_flops": self.base_visual_flops,
            "visual_share": flops / self.base_visual_flops,
        }
        if self.measure != "visual_flops":
            plan.cost |= {"measure": self.measure, "share": self._measured(plan) / self._base}
        return plan

    def _measured(self, plan: PruningPlan) -> float:
        if self.measure == "visual_flops":
            return visual_flops(plan, self.prompt.grids)
        if self.measure == "prefill_flops":
            return prefill_flops(plan, self.prompt)
        return kv_cache_bytes(plan, self.prompt)
