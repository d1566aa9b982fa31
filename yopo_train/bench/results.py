"""What a comparison found, and what follows from it: speed-up, efficiency, growth with the number of visual tokens."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from .calibration import CalibrationCost
from .timer import Timing

LAPS = ("vision", "prefill", "first_token", "decode", "train")
"""Laps of a `Row`, in the order of the tables; decode is one token of each sample."""


@dataclass
class Row:
    """What was measured of one contender; FLOPs and bytes of the whole batch.

    Parameters
    ----------
    times
        Milliseconds by lap, see `LAPS`; laps that were not asked for are missing.
    flops
        Prefill of the language model by formula; ``counted`` on what ran, attended pairs (the formula's convention),
        and ``computed``, all pairs of the kernel calls. See ``flops.py``.
    peak_bytes
        Most memory during the prefill that is timed, weights and inputs included: from the images, or of the language
        model alone, whose inputs are then held beside the images.
    weight_bytes
        Parameters and buffers.
    cache_bytes, cache_formula
        The KV cache after prefill, of the real tensors and by formula; None where there is no cache.
    train_flops, train_peak_bytes
        Of a LoRA training step; FLOPs counted over all pairs of the kernel calls.
    """

    times: dict[str, Timing] = field(default_factory=dict)
    flops: float = 0.0
    counted: int = 0
    computed: int = 0
    peak_bytes: int = 0
    weight_bytes: int = 0
    cache_bytes: int | None = None
    cache_formula: int | None = None
    train_flops: int | None = None
    train_peak_bytes: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: each lap's median by its name, its 90th percentile as ``<name>_p90``."""
        rest = {name: value for name, value in asdict(self).items() if name != "times" and value is not None}
        medians = {name: timing.median for name, timing in self.times.items()}
        return medians | {f"{name}_p90": timing.p90 for name, timing in self.times.items()} | rest


@dataclass
class WholeModel:
    """Prefill of the whole model in milliseconds, extrapolated from a slice of its layers."""

    layers: int
    base: float
    pruned: float
    flops_ratio: float

    @property
    def speedup(self) -> float:
        """How many times faster the pruned prefill would be."""
        return self.base / self.pruned

    @property
    def efficiency(self) -> float:
        """Speed-up over the one that the FLOPs promise."""
        return self.speedup / self.flops_ratio

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "speedup": self.speedup, "efficiency": self.efficiency}


@dataclass
class Comparison:
    """Base and pruned (and reference) on one prompt shape."""

    rows: dict[str, Row]
    plan: str
    visual_tokens: int
    text_tokens: int
    batch: int
    repeats: int
    dtype: str
    device: str
    threads: int
    text_cache_bytes: int
    whole_model: WholeModel | None = None
    calibration: CalibrationCost | None = None

    @property
    def flops_ratio(self) -> float:
        """How many times fewer FLOPs the pruned prefill needs, by formula."""
        return self.rows["base"].flops / self.rows["pruned"].flops

    @property
    def train_flops_ratio(self) -> float:
        """The same of a training step, counted."""
        return self.rows["base"].train_flops / self.rows["pruned"].train_flops

    def speedup(self, lap: str = "prefill", row: str = "pruned") -> float:
        """How many times faster than the base."""
        return self.rows["base"].times[lap].median / self.rows[row].times[lap].median

    @property
    def efficiency(self) -> float:
        """Prefill: measured speed-up over the one that the FLOPs promise."""
        return self.speedup() / self.flops_ratio

    @property
    def train_efficiency(self) -> float | None:
        """The same of a training step; None where none was timed."""
        return self.speedup("train") / self.train_flops_ratio if "train" in self.rows["pruned"].times else None

    @property
    def visual_cache_share(self) -> float:
        """Cache bytes of visual tokens, as a share of the base's."""
        pruned, base = (self.rows[name].cache_bytes - self.text_cache_bytes for name in ("pruned", "base"))
        return pruned / base

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        parts = {"whole_model": self.whole_model, "calibration": self.calibration}
        plain = {name: value for name, value in vars(self).items() if name not in ("rows", *parts)}
        found = {name: row.as_dict() for name, row in self.rows.items()} | plain
        for name in ("flops_ratio", "efficiency", "visual_cache_share"):
            found[name] = getattr(self, name)
        found["speedup"] = self.speedup()
        if self.train_efficiency is not None:
            found["train_efficiency"] = self.train_efficiency
        return found | {name: part.as_dict() for name, part in parts.items() if part}


def growth_exponent(tokens: list[int], milliseconds: list[float]) -> float:
    """The k of time ~ tokens^k: least squares on the logarithms."""
    x, y = ([math.log(value) for value in values] for values in (tokens, milliseconds))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    products = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return products / sum((a - mean_x) ** 2 for a in x)


def growth(comparisons: list[Comparison]) -> dict[str, float]:
    """Growth exponent of each contender's prefill time over the visual tokens of a sweep."""
    tokens = [comparison.visual_tokens for comparison in comparisons]
    return {
        name: growth_exponent(tokens, [comparison.rows[name].times["prefill"].median for comparison in comparisons])
        for name in comparisons[0].rows
    }
