"""Scores that others have published for models of this table, to be printed beside ours.

A row is only comparable with a whole benchmark under the protocol that it was made with. YOPO's own table is not among
them: its numbers are in the paper's figures alone, and nothing is written here that was not read at its source.
"""

from __future__ import annotations

from typing import NamedTuple

MODEL_ZOO = "LLaVA, docs/MODEL_ZOO.md"

WHOLE = {"gqa": 12_578, "scienceqa": 2017, "textvqa": 5000, "pope": 8910, "mme": 2374, "mmbench": 4329}
"""Questions of the splits that such tables are about, in the smallest edition there is: a sample is not comparable.

VQAv2's numbers are of test-dev, which only a server can score: no score made here stands beside them.
"""


class Published(NamedTuple):
    """A row of somebody's table.

    Attributes
    ----------
    base : str
        Hub id of the base model.
    stage : str
        base, pruned or recovered.
    budget : float or None
        Share of the visual FLOPs that is kept; None for the base.
    source : str
        Where the numbers were read.
    scores : dict
        Benchmark to headline score of the protocol ``llava``.
    """

    base: str
    stage: str
    budget: float | None
    source: str
    scores: dict[str, float]


PUBLISHED = (
    Published(
        "llava-hf/llava-1.5-7b-hf",
        "base",
        None,
        MODEL_ZOO,
        {
            "gqa": 62.0,
            "vqav2": 78.5,
            "scienceqa": 66.8,
            "textvqa": 58.2,
            "pope": 85.9,
            "mme": 1510.7,
            "mmbench": 64.3,
        },
    ),
    Published(
        "llava-hf/llava-1.5-13b-hf",
        "base",
        None,
        MODEL_ZOO,
        {
            "gqa": 63.3,
            "vqav2": 80.0,
            "scienceqa": 71.6,
            "textvqa": 61.3,
            "pope": 85.9,
            "mme": 1531.3,
            "mmbench": 67.7,
        },
    ),
)


def published(base: str | None, stage: str, budget: float | None) -> list[Published]:
    """What was published for a model at a stage, under a budget where it is pruned."""
    budget = None if stage == "base" else budget
    return [row for row in PUBLISHED if (row.base, row.stage, row.budget) == (base, stage, budget)]
