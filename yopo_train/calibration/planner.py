"""From scores and a budget to a plan: the paper's uniform ratios.

Every visual layer keeps the same share of heads (apart from protected layers, which keep all) and of channels: the best
ones, as many as the budget admits. Where heads stay by vote or by a file, each layer keeps those.
"""

import math
from dataclasses import asdict

import torch
from torch import Tensor

from yopo_train.calibration.drafts import Draft, Drafting
from yopo_train.calibration.plan_config import PRESETS, PlanConfig, wrong
from yopo_train.calibration.scores import Scores
from yopo_train.cost import Grid, Prompt
from yopo_train.head_masks import read_head_mask
from yopo_train.plan import ModelDims, PruningPlan

DEFAULT_RADIUS = 3


def make_plan(scores: Scores | ModelDims, config: PlanConfig, prompt: Prompt | list[Grid]) -> PruningPlan:
    """The uniform plan that meets a budget and leaves as little of it unused as it can.

    Parameters
    ----------
    scores
        What calibration measured. A model's dimensions are enough for the choices random and prefix.
    config
        The budget and what may be pruned.
    prompt
        A typical prompt, or the grids of its images where only visual FLOPs count; the budget is a share of what it
        costs in the base model.

    Raises
    ------
    UserError
        A wrong value in ``config`` (see `PlanConfig.check`), ``method: auto``, a depth beyond the model's layers, or a
        budget that no plan meets; says the smallest possible.
    """
    config.check()
    if config.method != "uniform":
        raise wrong("method", config.method, "uniform here: search_plan(model, batches, ...) judges by the answers")
    dims, scores = (scores, None) if isinstance(scores, ModelDims) else (scores.dims, scores)
    if scores is None and config.choice not in ("random", "prefix"):
        raise wrong("choice", config.choice, "random or prefix where nothing was measured")
    check_dims(config, dims)
    planner = _Uniform(dims, scores, config, prompt)
    depth = planner.depth()
    smallest = planner.cost(depth, 0.0, 0.0)
    if smallest > config.share:
        raise too_small(config, smallest)
    return planner.plan(depth, *planner.ratios(depth))


def check_dims(config: PlanConfig, dims: ModelDims) -> None:
    """Refuse a depth beyond the model's layers, and a head mask of another model."""
    if config.head_mask is not None:
        read_head_mask(config.head_mask, dims)
    if config.depth is not None and config.depth > dims.layers:
        raise wrong("depth", config.depth, f"at most the model's number of layers ({dims.layers})")


def too_small(config: PlanConfig, smallest: float) -> Exception:
    """The error for a budget that no plan meets."""
    found = config.share if config.preset is None else f"{config.share} (preset {config.preset})"
    return wrong("budget", found, f"at least {math.ceil(smallest * 1e4) / 1e4}, the smallest possible here")


def provenance(config: PlanConfig, scores: Scores | None) -> dict:
    """How a plan was made, for its file."""
    made_by = {**asdict(config), "budget": config.share}
    if scores is not None:
        made_by |= {"scores": scores.id, "samples": scores.n_samples, "data_fingerprint": scores.data_fingerprint}
    return made_by


class _Uniform:
    """Plans of one model, scores (if there are any) and configuration, by depth and ratios.

    Heads and channels of a layer are ranked once, so that a larger ratio keeps all that a smaller one keeps, and the
    cost grows with the ratios.
    """

    def __init__(self, dims: ModelDims, scores: Scores | None, config: PlanConfig, prompt: Prompt | list[Grid]) -> None:
        self.dims, self.scores, self.config = dims, scores, config
        self.head_rank, channel_rank = ranks(dims, scores, config)
        self.fixed_heads = fixed_heads(dims, scores, config)
        self.drafting = Drafting(dims, prompt, config.measure, channel_rank)
        default = None if config.share == 1 else DEFAULT_RADIUS
        radius = default if config.radius is None else config.radius
        self.radius = radius if "neighbor" in config.mechanisms else None

    def depth(self) -> int:
        """Visual depth, as `PlanConfig.depth` describes."""
        config, layers, budget = self.config, self.dims.layers, self.config.share
        if "depth" not in config.mechanisms:
            return layers
        if config.depth is not None:
            return config.depth
        ratios_are_free = bool({"heads", "channels"} & set(config.mechanisms))
        half = max(1, layers // 2)
        if ratios_are_free and self.cost(half, 0.0, 0.0) <= budget:
            enough = (depth for depth in range(half, layers) if self.cost(depth, 1.0, 1.0) >= budget)
            return next(enough, layers)
        ratio = 0.5 if ratios_are_free else 1.0
        fits = (depth for depth in range(layers, 0, -1) if self.cost(depth, ratio, ratio) <= budget)
        return next(fits, 1)

    def ratios(self, depth: int) -> tuple[float, float]:
        """The preset's heads, or the largest ratio of heads and channels that fits; then as many channels as fit."""
        steps, budget, preset = self.dims.intermediate, self.config.share, PRESETS.get(self.config.preset)
        heads = preset.heads if preset is not None else None

        def largest(fits, low: int) -> int:
            """Largest step in ``low .. steps`` that fits; ``low`` is known to."""
            high = steps
            while low < high:
                middle = (low + high + 1) // 2
                low, high = (middle, high) if fits(middle) else (low, middle - 1)
            return low

        if heads is not None and self.cost(depth, heads, 0.0) <= budget < self.cost(depth, heads, 1.0):
            return heads, largest(lambda step: self.cost(depth, heads, step / steps) <= budget, 0) / steps
        both = largest(lambda step: self.cost(depth, step / steps, step / steps) <= budget, 0)
        channels = largest(lambda step: self.cost(depth, both / steps, step / steps) <= budget, both)
        return both / steps, channels / steps

    def cost(self, depth: int, heads: float, channels: float) -> float:
        """Cost as a share of the base model's."""
        return self.drafting.cost(self.draft(depth, heads, channels))

    def plan(self, depth: int, heads: float, channels: float) -> PruningPlan:
        """The plan, with its provenance and predicted cost."""
        plan, config, scores = self.drafting.finish(self.draft(depth, heads, channels)), self.config, self.scores
        plan.made_by = provenance(config, scores) | {
            "head_ratio": heads if "heads" in config.mechanisms and self.fixed_heads is None else None,
            "channel_ratio": channels if "channels" in config.mechanisms else 1.0,
        }
        if scores is not None:
            plan.base_model, plan.revision = scores.base_model, scores.revision
        return plan

    def draft(self, depth: int, heads: float, channels: float) -> Draft:
        """The best ``ratio`` of each visual layer."""
        dims, mechanisms = self.dims, self.config.mechanisms
        keep_heads = dims.heads if "heads" not in mechanisms else math.floor(heads * dims.heads + 0.5)
        keep_channels = dims.intermediate if "channels" not in mechanisms else round(channels * dims.intermediate)
        mask = self.head_rank < keep_heads if self.fixed_heads is None else self.fixed_heads.clone()
        if self.config.head_mask is None:
            mask[: min(self.config.protected_layers, depth // 4)] = True
        return Draft(depth, self.radius, mask, torch.full((dims.layers,), keep_channels))


def fixed_heads(dims: ModelDims, scores: Scores | None, config: PlanConfig) -> Tensor | None:
    """Heads that stay by a file or by vote, bool ``(layers, heads)``; None where a ratio decides."""
    if config.head_mask is not None:
        return read_head_mask(config.head_mask, dims)
    if not config.votes or "heads" not in config.mechanisms:
        return None
    votes = (scores.rho > config.vote_threshold).float().mean(dim=0)
    return votes > config.vote_share


def ranks(dims: ModelDims, scores: Scores | None, config: PlanConfig) -> tuple[Tensor, Tensor]:
    """Rank of each head ``(layers, heads)`` and channel ``(layers, intermediate)`` in its layer, 0 is kept first."""
    if config.choice in ("score", "vote"):
        values = scores.rho.mean(dim=0), scores.channels
    elif config.choice == "magnitude":
        values = scores.head_norms, scores.channel_norms
    elif config.choice == "random":
        generator = torch.Generator().manual_seed(config.seed)
        values = tuple(torch.rand(dims.layers, width, generator=generator) for width in (dims.heads, dims.intermediate))
    else:
        values = tuple(-torch.arange(width).expand(dims.layers, width) for width in (dims.heads, dims.intermediate))
    heads, channels = (value.argsort(dim=1, descending=True, stable=True).argsort(dim=1) for value in values)
    return heads, channels
