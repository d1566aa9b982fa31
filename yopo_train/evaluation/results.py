"""What an evaluation found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Result:
    """Scores of one benchmark, and how they came about.

    Attributes
    ----------
    benchmark, protocol : str
        What was asked, and by whose rules.
    headline : str or None
        Key of the score that the protocol's tables print; None where there are no public answers.
    scores : dict
        Everything that the metric computes; empty where there are no public answers.
    items : int
        How many questions there are.
    resumed : int
        How many of them had been answered before, in the predictions file.
    seconds : float
        From the first prompt to the score.
    generation : dict
        Greedy decoding: ``max_new_tokens``, ``batch_size``, ``system`` and so on.
    plan : str or None
        Id of the model's pruning plan.
    predictions : dict
        Item id to the model's answer; not in `as_dict`.
    """

    benchmark: str
    protocol: str
    headline: str | None
    scores: Mapping[str, float]
    items: int
    resumed: int
    seconds: float
    generation: Mapping[str, Any]
    plan: str | None = None
    predictions: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def score(self) -> float | None:
        """The number that tables print; None where there is none, as ScienceQA-IMG's without any image."""
        return self.scores.get(self.headline)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for ``results.json``: all but the predictions."""
        plain = {name: value for name, value in asdict(self).items() if name != "predictions"}
        return {"score": self.score} | plain
