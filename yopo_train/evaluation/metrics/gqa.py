"""GQA: exact match."""

from __future__ import annotations

import string
from typing import Any

from .base import ByProtocol, ItemMetric, Reference, Row, grouped, mean

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


class GQA(ItemMetric):
    """Share of answers that match exactly.

    llava (percent): closing periods and case of the prediction do not count; LLaVA's `convert_gqa_for_eval.py`, then
    GQA's `eval.py`, which fails if a prediction is missing. lmms_eval (0 to 1): case and ASCII punctuation of both do
    not count.

    Gives ``accuracy``, and where items have ``types``: ``accuracy/binary``, ``accuracy/open`` and one for each
    structural type, as `eval.py` prints them.
    """

    name = "gqa"
    headline = ByProtocol("accuracy", "accuracy")

    def _judge(self, text: str, reference: Reference) -> dict[str, Any]:
        gold = reference["answer"]
        if self.protocol == "llava":
            parsed = text.rstrip(".").lower()
        else:
            parsed, gold = (answer.lower().translate(_WITHOUT_PUNCTUATION) for answer in (text, gold))
        return {"score": float(parsed == gold), "parsed": parsed}

    def _summary(self, rows: list[Row]) -> dict[str, float]:
        scores = {"accuracy": self.percent * mean(row.score for row in rows)}
        for key in (_kind, _structure):
            for value, group in grouped(rows, key).items():
                scores[f"accuracy/{value}"] = self.percent * mean(row.score for row in group)
        return scores


def _structure(row: Row) -> str | None:
    types = row.reference.get("types")
    return types.get("structural") if isinstance(types, dict) else None


def _kind(row: Row) -> str | None:
    structure = _structure(row)
    return structure and ("open" if structure == "query" else "binary")
