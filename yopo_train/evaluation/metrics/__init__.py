"""Scores of the seven benchmarks, exactly as their references give them.

    metric = make_metric("pope", "llava", references)
    metric.update(predictions, references)      # batch by batch, each item on one rank
    metric.compute()[headline("pope", "llava")]

Needs torch and torchmetrics only; the folder works outside this package too.
"""

from __future__ import annotations

from collections.abc import Sequence

from .base import PROTOCOLS, ItemMetric, Reference
from .gqa import GQA
from .mmbench import MMBench
from .mme import MME
from .pope import POPE
from .scienceqa import ScienceQA
from .text import evalai_answer
from .textvqa import TextVQA
from .vqav2 import VQAv2

METRICS: dict[str, type[ItemMetric]] = {
    metric.name: metric for metric in (GQA, VQAv2, ScienceQA, TextVQA, POPE, MME, MMBench)
}
HEADLINE = {name: metric.headline._asdict() for name, metric in METRICS.items()}
"""Benchmark -> protocol -> key of the number that the protocol's tables print."""

__all__ = ["HEADLINE", "METRICS", "PROTOCOLS", "ItemMetric", "evalai_answer", "headline", "make_metric"]


def make_metric(
    name: str, protocol: str, references: Sequence[Reference], reasoning_tags: bool = False, **kwargs
) -> ItemMetric:
    """The metric of a benchmark, see :class:`ItemMetric`.

    Raises
    ------
    ValueError
        The benchmark or protocol is unknown, or the references cannot be scored.
    """
    if name not in METRICS:
        raise ValueError(f"benchmark {name!r}, expected one of {', '.join(METRICS)}")
    return METRICS[name](references, protocol, reasoning_tags, **kwargs)


def headline(name: str, protocol: str) -> str:
    """Key of the number that tables print."""
    return HEADLINE[name][protocol]
