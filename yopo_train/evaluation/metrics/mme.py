"""MME: pairs of yes-no questions about an image."""

from __future__ import annotations

from typing import Any

from .base import ByProtocol, ItemMetric, Reference, Row, grouped, mean

PERCEPTION = ["existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"]
COGNITION = ["commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"]


class MME(ItemMetric):
    """Accuracy and accuracy+ of each category, and their sums.

    ``acc/<category>``: percent of right answers. ``acc_plus/<category>``: percent of images with both answers right.
    ``score/<category>``: their sum, at most 200. ``perception``: sum of ten categories, at most 2000. ``cognition``:
    sum of four, at most 800. ``total``: of both. The same scale in both protocols. Of items that lack a category the
    sums lack it too, where the official tool would fail.

    llava: MME's own `calculation.py`, which looks at the first four characters. It pairs the lines of a category in
    turn; here questions of one image pair in turn, which gives the same for files in the official order. An answer with
    a line end or tab, which breaks that tool's input, is scored as it is. lmms_eval: periods are deleted first, ``y``
    and ``n`` count, an image must have exactly two questions, and any other category counts as cognition.
    """

    name = "mme"
    headline = ByProtocol("perception", "perception")
    needs = (("answer", str), ("category", str), ("image", object))
    labels = ("yes", "no")

    def __init__(self, references, protocol: str = "llava", reasoning_tags: bool = False, **kwargs: Any) -> None:
        super().__init__(references, protocol, reasoning_tags, **kwargs)
        counts: dict[tuple[str, str], int] = {}
        for reference in self.references:
            key = (reference["category"], str(reference["image"]))
            counts[key] = counts.get(key, 0) + 1
        for (category, image), count in counts.items():
            if protocol == "llava" and category not in PERCEPTION + COGNITION:
                raise ValueError(f"mme: category {category!r}, expected one of {', '.join(PERCEPTION + COGNITION)}")
            if count % 2 or (protocol == "lmms_eval" and count != 2):
                raise ValueError(f"mme: {count} questions about image {image!r} of category {category!r}, expected 2")

    def _judge(self, text: str, reference: Reference) -> dict[str, Any]:
        parsed = _lmms_eval_label(text) if self.protocol == "lmms_eval" else _prefix_label(text.lower())
        return {"score": float(parsed == reference["answer"].strip().lower()), "parsed": parsed}

    def _summary(self, rows: list[Row]) -> dict[str, float]:
        detail = {}
        sums = {"perception": 0.0, "cognition": 0.0}
        for category, group in grouped(rows, lambda row: row.reference["category"]).items():
            acc = 100 * mean(row.score for row in group)
            acc_plus = 100 * mean(_both_right(group))
            sums["perception" if category in PERCEPTION else "cognition"] += acc + acc_plus
            detail |= {f"score/{category}": acc + acc_plus, f"acc/{category}": acc, f"acc_plus/{category}": acc_plus}
        return sums | {"total": sums["perception"] + sums["cognition"]} | detail


def _both_right(rows: list[Row]) -> list[float]:
    """1 or 0 for each pair of questions about an image."""
    pairs = []
    for group in grouped(rows, lambda row: str(row.reference["image"])).values():
        scores = [row.score for row in group]
        pairs += [first * second for first, second in zip(scores[::2], scores[1::2], strict=True)]
    return pairs


def _lmms_eval_label(text: str) -> str:
    text = text.lower().strip().replace(".", "")
    return {"y": "yes", "n": "no"}.get(text, "other") if len(text) == 1 else _prefix_label(text)


def _prefix_label(text: str) -> str:
    """What the first four characters contain: also *no* in ``know`` and ``Snow``, and *yes* in ``eyes``."""
    return next((label for label in ("yes", "no") if label in text[:4]), "other")
