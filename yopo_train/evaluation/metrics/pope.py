"""POPE: yes or no, about objects that are there or not."""

from __future__ import annotations

from typing import Any

from .base import ByProtocol, ItemMetric, Reference, Row, grouped, mean


class POPE(ItemMetric):
    """Accuracy, precision, recall, F1 (positive is yes) and yes-ratio, overall and per category.

    llava (percent): `eval_pope.py`, which is POPE's own rule: up to the first period, without commas, an answer with
    the word ``No``, ``no`` or ``not`` is no, **every other is yes**, an empty one too. ``f1_mean`` over the categories
    is the number of LLaVA's table. Answers are joined by id, not by order.

    lmms_eval (0 to 1): an answer counts only if it *is* yes or no; others are wrong, but neither false positives nor
    false negatives. Its ``pope_yes_ratio`` is the share of *gold* answers that are yes, kept under that name only;
    ``yes_ratio`` is the share of predictions.

    A ratio whose denominator is zero is 0; LLaVA's script fails with ZeroDivisionError there.
    """

    name = "pope"
    headline = ByProtocol("f1_mean", "f1")
    needs = (("answer", str), ("category", str))
    labels = ("yes", "no")

    def _check(self, reference: Reference, place: int) -> None:
        super()._check(reference, place)
        if _gold(reference) not in self.labels:
            raise ValueError(
                f"pope: item {reference['id']!r} has the answer {reference['answer']!r}, expected yes or no"
            )

    def _judge(self, text: str, reference: Reference) -> dict[str, Any]:
        if self.protocol == "llava":
            words = text.partition(".")[0].replace(",", "").split(" ")
            parsed = "no" if {"No", "not", "no"} & set(words) else "yes"
        else:
            parsed = text.lower()
        return {"score": float(parsed == _gold(reference)), "parsed": parsed}

    def _summary(self, rows: list[Row]) -> dict[str, float]:
        categories = {name: self._rates(group) for name, group in grouped(rows, _category).items()}
        scores = {"f1_mean": mean(rates["f1"] for rates in categories.values()), **self._rates(rows)}
        for name, rates in categories.items():
            scores |= {f"{key}/{name}": value for key, value in rates.items()}
        return {key: self.percent * value for key, value in scores.items()}

    def _rates(self, rows: list[Row]) -> dict[str, float]:
        said, gold = [row.label for row in rows], [_gold(row.reference) for row in rows]
        pairs = list(zip(said, gold, strict=True))
        hits, false_yes, false_no = (pairs.count(pair) for pair in (("yes", "yes"), ("yes", "no"), ("no", "yes")))
        precision, recall = _ratio(hits, hits + false_yes), _ratio(hits, hits + false_no)
        rates = {
            "accuracy": mean(row.score for row in rows),
            "precision": precision,
            "recall": recall,
            "f1": _ratio(2 * precision * recall, precision + recall),
            "yes_ratio": _ratio(said.count("yes"), len(rows)),
        }
        return rates if self.protocol == "llava" else rates | {"pope_yes_ratio": _ratio(gold.count("yes"), len(rows))}


def _gold(reference: Reference) -> str:
    return reference["answer"].strip().lower()


def _category(row: Row) -> str:
    return row.reference["category"]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
