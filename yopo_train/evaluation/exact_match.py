"""Exact match of short answers, overall and per kind of question."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


def normalise(answer: str) -> str:
    """Surrounding space, case and one closing full stop do not count."""
    return answer.strip().casefold().removesuffix(".").rstrip()


def is_match(prediction: str, answer: str) -> bool:
    """Whether two answers are the same after :func:`normalise`."""
    return normalise(prediction) == normalise(answer)


class ExactMatch(Metric):
    """Share of answers that match exactly.

    The kinds are given beforehand, so that the states are plain sums and every rank reports the same keys, whichever
    kinds its own samples happen to have.

    Parameters
    ----------
    kinds : iterable of str
        Every kind of question that may come.

    Attributes
    ----------
    correct, total : Tensor
        int64 ``(kinds,)``, summed over ranks.
    """

    full_state_update = False
    higher_is_better = True
    correct: Tensor
    total: Tensor

    def __init__(self, kinds: Iterable[str], **kwargs) -> None:
        super().__init__(**kwargs)
        self.kinds = sorted(set(kinds))
        for state in ("correct", "total"):
            self.add_state(state, torch.zeros(len(self.kinds), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[str], answers: Sequence[str], kinds: Sequence[str]) -> None:
        """Count a batch of answers.

        Raises
        ------
        ValueError
            The three sequences differ in length, or a kind is unknown.
        """
        for prediction, answer, kind in zip(predictions, answers, kinds, strict=True):
            index = self.kinds.index(kind)
            self.total[index] += 1
            self.correct[index] += is_match(prediction, answer)

    def compute(self) -> dict[str, float]:
        """``{"accuracy": ..., "accuracy/<kind>": ...}`` in 0..1; a kind without samples is left out."""
        correct, total = self.correct.tolist(), self.total.tolist()
        scores = {"accuracy": sum(correct) / sum(total)} if sum(total) else {}
        return scores | {f"accuracy/{k}": c / t for k, c, t in zip(self.kinds, correct, total, strict=True) if t}
