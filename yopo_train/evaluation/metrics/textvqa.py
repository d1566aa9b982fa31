"""TextVQA: agreement with ten people's answers, by position."""

from __future__ import annotations

from typing import Any

from .base import ByProtocol, ItemMetric, Reference, Row, mean
from .text import evalai_answer

PEOPLE = 10


class TextVQA(ItemMetric):
    """Mean accuracy as LLaVA's `m4c_evaluator.py` and lmms-eval compute it; prediction and answers are normalised.

    llava: percent, exactly ten answers a question, questions without a prediction are left out (its script reads the
    answer file only). lmms_eval: 0 to 1, any number of answers, none of them: no points.
    """

    name = "textvqa"
    headline = ByProtocol("accuracy", "accuracy")
    gold = "answers"
    needs = ()
    unanswered = ByProtocol("left out", "error")

    def _check(self, reference: Reference, place: int) -> None:
        super()._check(reference, place)
        answers = reference.get("answers") or []
        count = len(answers)
        if not all(isinstance(answer, str) for answer in answers):
            raise ValueError(f"textvqa: item {reference['id']!r} has the answers {answers!r}, expected a list of text")
        if self.protocol == "llava" and count != PEOPLE:
            raise ValueError(f"textvqa: item {reference['id']!r} has {count} answers, expected {PEOPLE}")

    def _judge(self, text: str, reference: Reference) -> dict[str, Any]:
        parsed = evalai_answer(text)
        same = [evalai_answer(answer) == parsed for answer in reference.get("answers") or []]
        others = (sum(same) - own for own in same)
        score = mean(min(1.0, count / 3) for count in others) if same else 0.0
        return {"score": score, "parsed": parsed}

    def _summary(self, rows: list[Row]) -> dict[str, float]:
        return {"accuracy": self.percent * mean(row.score for row in rows)}
