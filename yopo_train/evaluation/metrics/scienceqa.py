"""ScienceQA: the letter of a choice."""

from __future__ import annotations

import re
from typing import Any

from .base import ByProtocol, ItemMetric, Reference, Row, mean

_LETTERS = "ABCDE"
_SENTENCE = re.compile(r"The answer is ([A-Z]).")  # needs one more character: "The answer is B" at the end is no match


class ScienceQA(ItemMetric):
    """Share of right letters, of all questions (``accuracy``) and of those with an image (``accuracy_img``).

    llava (percent): `eval_science_qa.py`; ``B``, ``B. text`` or one ``The answer is B.``; other texts are ``FAILED``,
    wrong without a random guess. A question without a prediction is wrong, and leaves the image subset, because the
    script learns from the stored prompt whether there was an image. lmms_eval (0 to 1): the gold letter in either case,
    or ``B.`` with anything behind it.
    """

    name = "scienceqa"
    headline = ByProtocol("accuracy_img", "accuracy")
    needs = (("answer", int), ("choices", list))
    unanswered = ByProtocol("wrong", "error")

    def _judge(self, text: str, reference: Reference) -> dict[str, Any]:
        gold = reference["answer"]
        if self.protocol == "llava":
            parsed = llava_letter(text)
            index = _LETTERS.find(parsed)
            return {"score": float(index == gold and 0 <= index < len(reference["choices"])), "parsed": parsed}
        letter = chr(ord("A") + gold)
        dotted = len(text) >= 2 and text[0].isupper() and text[1] == "."
        right = text.lower() == letter.lower() or (dotted and text[0] == letter)
        return {"score": float(right), "parsed": text[0] if dotted else text}

    def _summary(self, rows: list[Row]) -> dict[str, float]:
        scores = {"accuracy": self.percent * mean(row.score for row in rows)}
        if pictured := [row.score for row in rows if row.reference.get("image") and row.answered]:
            scores["accuracy_img"] = self.percent * mean(pictured)
        return scores


def llava_letter(text: str) -> str:
    """The letter that LLaVA's script reads from an answer, or ``FAILED``."""
    if len(text) == 1 and text in _LETTERS:
        return text
    if text[:1] in tuple(_LETTERS) and text[1:3] == ". ":
        return text[0]
    found = _SENTENCE.findall(text)
    return found[0] if len(found) == 1 else "FAILED"
