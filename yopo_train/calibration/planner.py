"""From scores and a budget to a plan: the paper's uniform ratios.

Every visual layer keeps the same share of heads (apart from protected layers, which keep all) and of channels: the best
ones by score, as many as the budget admits.
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from yopo_train.calibration.scores import Scores
from yopo_train.cost import Grid, dense_visual_flops, visual_flops
from yopo_train.errors import UserError
from yopo_train.plan import ModelDims, PruningPlan

Preset = Literal["paper-25", "paper-12"]
Choice = Literal["score", "random", "magnitude", "prefix"]
Mechanism = Literal["heads", "channels", "neighbor", "depth"]

PRESET_BUDGETS: dict[str, float] = {"paper-25": 0.25, "paper-12": 0.12}
PRESET_HEADS: dict[str, float] = {"paper-25": 0.5, "paper-12": 0.25}  # the authors' masks: 20 and 10 of 40 heads
DEFAULT_RADIUS = 3


@dataclass
class PlanConfig:
    """How to prune; the section ``model.pruning`` of a configuration file.

    Parameters
    ----------
    preset
        The paper's settings by name: paper-25 keeps 25 % of the visual FLOPs and half of the heads, paper-12 keeps 12 %
        and a quarter of the heads; channels use the rest of the budget.
    budget
        Share of the base model's visual FLOPs to keep, in (0, 1]; give either a preset or a budget.
    depth
        Visual depth, 1 to the number of layers. null: half of the layers; more where those would not use the budget up;
        where they exceed it at any ratio, the most layers with which a ratio of one half fits.
    radius
        Neighbor radius; the paper's window is 2 * radius + 1. null: 3, a window of 7 x 7.
    mechanisms
        What may be pruned: heads, channels, neighbor, depth. The ones left out stay as in the base model and the others
        take the budget.
    protected_layers
        The first layers that keep all heads, as in the authors' code; never more than a quarter of the visual layers.
    choice
        Which heads and channels stay: score is what calibration measured; the others are controls: random, magnitude
        (the norm of their weights), prefix (the first ones).
    seed
        Of the random choice.
    """

    preset: Preset | None = None
    budget: float | None = None
    depth: int | None = None
    radius: int | None = None
    mechanisms: list[Mechanism] = field(default_factory=lambda: list(get_args(Mechanism)))
    protected_layers: int = 2
    choice: Choice = "score"
    seed: int = 0

    def check(self) -> None:
        """Refuse wrong values before any work is done.

        Not in ``__post_init__``: inside an optional section jsonargparse would bury the message.

        Raises
        ------
        UserError
            Names the field, what was found and what was expected.
        """
        self._check_budget()
        if not isinstance(self.mechanisms, list) or not self.mechanisms:
            raise _wrong("mechanisms", self.mechanisms, "a list of at least one (model.pruning: null prunes nothing)")
        for name, allowed in (("mechanisms", Mechanism), ("choice", Choice)):
            value = getattr(self, name)
            for item in value if isinstance(value, list) else [value]:
                if item not in get_args(allowed):
                    raise _wrong(name, item, f"one of {', '.join(get_args(allowed))}")
        for name, mechanism, least in (("depth", "depth", 1), ("radius", "neighbor", 0), ("protected_layers", "", 0)):
            value = getattr(self, name)
            if value is None and mechanism:
                continue
            if type(value) is not int or value < least:
                raise _wrong(name, value, f"an integer >= {least}")
            if mechanism and mechanism not in self.mechanisms:
                raise _wrong(name, value, f"null, as model.pruning.mechanisms leaves {mechanism} out")

    @property
    def share(self) -> float:
        """Share of the visual FLOPs to keep."""
        return self.budget if self.preset is None else PRESET_BUDGETS[self.preset]

    def _check_budget(self) -> None:
        if self.preset is not None and self.preset not in PRESET_BUDGETS:
            raise _wrong("preset", self.preset, f"one of {', '.join(PRESET_BUDGETS)}")
        if self.preset is not None and self.budget is not None:
            raise _wrong("budget", self.budget, f"null beside model.pruning.preset ({self.preset}): give only one")
        if self.preset is None and self.budget is None:
            raise _wrong("budget", None, "a share in (0, 1], or a preset in model.pruning.preset")
        if self.preset is None and not (isinstance(self.budget, int | float) and 0 < self.budget <= 1):
            raise _wrong("budget", self.budget, "a share of the visual FLOPs in (0, 1]")


def make_plan(scores: Scores | ModelDims, config: PlanConfig, grids: list[Grid]) -> PruningPlan:
    """The uniform plan that meets a budget and leaves as little of it unused as it can.

    Parameters
    ----------
    scores
        What calibration measured. A model's dimensions are enough for the choices random and prefix.
    config
        The budget and what may be pruned.
    grids
        The images of a typical prompt; the budget is a share of what they cost in the base model.

    Raises
    ------
    UserError
        A wrong value in ``config`` (see `PlanConfig.check`), a depth beyond the model's layers, or a budget that no
        plan meets; says the smallest possible.
    """
    config.check()
    dims, scores = (scores, None) if isinstance(scores, ModelDims) else (scores.dims, scores)
    if scores is None and config.choice not in ("random", "prefix"):
        raise _wrong("choice", config.choice, "random or prefix where nothing was measured")
    layers = dims.layers
    if config.depth is not None and config.depth > layers:
        raise _wrong("depth", config.depth, f"at most the model's number of layers ({layers})")
    builder = _Builder(dims, scores, config, grids)
    depth = _choose_depth(builder, config)
    smallest = builder.share(depth, 0.0, 0.0)
    if smallest > config.share:
        found = config.share if config.preset is None else f"{config.share} (preset {config.preset})"
        raise _wrong("budget", found, f"at least {math.ceil(smallest * 1e4) / 1e4}, the smallest possible here")
    return builder.plan(depth, *_choose_ratios(builder, config, depth))


def _choose_depth(builder: "_Builder", config: PlanConfig) -> int:
    """Visual depth, as `PlanConfig.depth` describes."""
    layers, budget = builder.dims.layers, config.share
    if "depth" not in config.mechanisms:
        return layers
    if config.depth is not None:
        return config.depth
    ratios_are_free = bool({"heads", "channels"} & set(config.mechanisms))
    half = max(1, layers // 2)
    if ratios_are_free and builder.share(half, 0.0, 0.0) <= budget:
        enough = (depth for depth in range(half, layers) if builder.share(depth, 1.0, 1.0) >= budget)
        return next(enough, layers)
    ratio = 0.5 if ratios_are_free else 1.0
    fits = (depth for depth in range(layers, 0, -1) if builder.share(depth, ratio, ratio) <= budget)
    return next(fits, 1)


def _choose_ratios(builder: "_Builder", config: PlanConfig, depth: int) -> tuple[float, float]:
    """The preset's heads, or the largest ratio of heads and channels that fits; then as many channels as fit."""
    steps, heads = builder.dims.intermediate, PRESET_HEADS.get(config.preset)

    def largest(fits, low: int) -> int:
        """Largest step in ``low .. steps`` that fits; ``low`` is known to."""
        high = steps
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle) else (low, middle - 1)
        return low

    if heads is not None and builder.share(depth, heads, 0.0) <= config.share < builder.share(depth, heads, 1.0):
        return heads, largest(lambda step: builder.share(depth, heads, step / steps) <= config.share, 0) / steps
    both = largest(lambda step: builder.share(depth, step / steps, step / steps) <= config.share, 0)
    channels = largest(lambda step: builder.share(depth, both / steps, step / steps) <= config.share, both)
    return both / steps, channels / steps


class _Builder:
    """Plans of one model, scores (if there are any) and configuration, by depth and ratios.

    Heads and channels of a layer are ranked once, so that a larger ratio keeps all that a smaller one keeps, and the
    cost grows with the ratios.
    """

    def __init__(self, dims: ModelDims, scores: Scores | None, config: PlanConfig, grids: list[Grid]) -> None:
        self.dims, self.scores, self.config, self.grids = dims, scores, config, grids
        self.base_cost = dense_visual_flops(self.dims, sum(t * rows * columns for t, rows, columns in grids))
        if not self.base_cost:
            raise UserError("no grid given to plan for, expected the grids of at least one image")
        self.head_rank, self.channel_rank = _ranks(dims, scores, config)
        default = None if config.share == 1 else DEFAULT_RADIUS
        radius = default if config.radius is None else config.radius
        self.radius = radius if "neighbor" in config.mechanisms else None

    def share(self, depth: int, heads: float, channels: float) -> float:
        """Cost as a share of the base model's."""
        return visual_flops(self._masked(depth, heads, channels), self.grids) / self.base_cost

    def plan(self, depth: int, heads: float, channels: float) -> PruningPlan:
        """The plan, with its provenance and predicted cost."""
        plan, config, scores = self._masked(depth, heads, channels), self.config, self.scores
        plan.made_by = {
            "method": "uniform",
            **asdict(config),
            "budget": config.share,
            "head_ratio": heads if "heads" in config.mechanisms else 1.0,
            "channel_ratio": channels if "channels" in config.mechanisms else 1.0,
        }
        if scores is not None:
            plan.base_model, plan.revision = scores.base_model, scores.revision
            plan.made_by |= {"scores": scores.id, "samples": scores.n_samples}
            plan.made_by["data_fingerprint"] = scores.data_fingerprint
        cost = visual_flops(plan, self.grids)
        plan.cost = {
            "grids": [list(grid) for grid in self.grids],
            "visual_flops": cost,
            "base_visual_flops": self.base_cost,
            "visual_share": cost / self.base_cost,
        }
        return plan

    def _masked(self, depth: int, heads: float, channels: float) -> PruningPlan:
        """Masks that keep the best ``ratio`` of each visual layer."""
        dims, mechanisms = self.dims, self.config.mechanisms
        keep_heads = dims.heads if "heads" not in mechanisms else math.floor(heads * dims.heads + 0.5)
        keep_channels = dims.intermediate if "channels" not in mechanisms else round(channels * dims.intermediate)
        head_mask, channel_mask = self.head_rank < keep_heads, self.channel_rank < keep_channels
        head_mask[: min(self.config.protected_layers, depth // 4)] = True
        head_mask[depth:] = False
        channel_mask[depth:] = False
        return PruningPlan(dims, head_mask, channel_mask, self.radius, depth)


def _ranks(dims: ModelDims, scores: Scores | None, config: PlanConfig) -> tuple[Tensor, Tensor]:
    """Rank of each head ``(layers, heads)`` and channel ``(layers, intermediate)`` in its layer, 0 is kept first."""
    if config.choice == "score":
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


def _wrong(field_name: str, found: object, expected: str) -> UserError:
    return UserError(f"model.pruning.{field_name} is {'null' if found is None else found}, expected {expected}")
