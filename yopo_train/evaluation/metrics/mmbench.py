"""MMBench: a letter, asked again with rotated options."""

from __future__ import annotations

from typing import Any

from .base import ByProtocol, ItemMetric, Reference, Row, grouped, mean
from .mmbench_letters import lmms_eval_letter, vlmevalkit_letter

ROTATION = 1_000_000  # rotation k of question i has the index i + k * ROTATION


class MMBench(ItemMetric):
    """Circular accuracy in percent: a question counts if every rotation that is present is answered right.

    Questions without a row of their own (orphan rotations) are left out. Gives ``accuracy``, ``accuracy/<category>``
    and ``accuracy/l2/<L2 category>``, by the labels of the question's first row.

    llava: LLaVA uploads its answers; this is the exact matching of VLMEvalKit, the toolkit behind the server, without
    its GPT fallback: a text without a letter is wrong. On LLaVA-1.5-13B's published answers both agree (67.7). A row
    without a prediction is an empty cell, which the toolkit reads as ``nan``. lmms_eval: the task
    ``mmbench_en_dev_static``; the task that asks GPT, and draws random letters when that fails, is not reproduced.
    """

    name = "mmbench"
    headline = ByProtocol("accuracy", "accuracy")
    needs = (("answer", str), ("index", int), ("options", dict))
    unanswered = ByProtocol("wrong", "error")
    nothing = ByProtocol("nan", "")

    def __init__(self, references, protocol: str = "llava", reasoning_tags: bool = False, **kwargs: Any) -> None:
        super().__init__(references, protocol, reasoning_tags, **kwargs)
        if all(reference["index"] >= ROTATION for reference in self.references):
            raise ValueError(f"mmbench: every index is {ROTATION} or more, expected the rotations' questions too")

    def _check(self, reference: Reference, place: int) -> None:
        super()._check(reference, place)
        if not all(isinstance(option, str) for option in reference["options"].values()):
            raise ValueError(f"mmbench: item {reference['id']!r} has the options {reference['options']}, expected text")

    def _judge(self, text: str, reference: Reference) -> dict[str, Any]:
        read = vlmevalkit_letter if self.protocol == "llava" else lmms_eval_letter
        parsed = read(text, reference["options"])
        return {"score": float(parsed == reference["answer"]), "parsed": parsed}

    def _summary(self, rows: list[Row]) -> dict[str, float]:
        groups = grouped(rows, lambda row: row.reference["index"] % ROTATION)
        asked = [row for row in rows if row.reference["index"] < ROTATION]
        hits = {
            row.reference["index"]: float(all(part.score for part in groups[row.reference["index"]])) for row in asked
        }

        def accuracy(part: list[Row]) -> float:
            return 100 * mean(hits[row.reference["index"]] for row in part)

        scores = {"accuracy": accuracy(asked)}
        for prefix, field in (("", "category"), ("l2/", "l2_category")):
            for label, part in grouped(asked, lambda row, field=field: row.reference.get(field)).items():
                scores[f"accuracy/{prefix}{label}"] = accuracy(part)
        return scores
