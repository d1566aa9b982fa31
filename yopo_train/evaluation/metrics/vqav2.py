"""VQAv2: agreement with ten people's answers."""

from __future__ import annotations

from typing import Any

from .base import ByProtocol, ItemMetric, Reference, Row, grouped, mean
from .text import COMMA_OFFICIAL, evalai_answer, one_line, vqa_answer


class VQAv2(ItemMetric):
    """Mean accuracy after Antol et al. (2015): three people who say the same make an answer right.

    llava (percent): LLaVA uploads test-dev answers, normalised by the EvalAI processor, to a server, so its published
    numbers cannot be computed here. ``parsed`` is the answer as it is uploaded. For a split with answers the score is
    what VQA's own `vqaEval.py` (2021) gives to that upload: people's answers are normalised only if they differ. Which
    version the server runs is not known. Questions without a prediction are uploaded as "".

    lmms_eval (0 to 1): prediction and people's answers are always normalised; no ``answers``, no points.

    Gives ``accuracy``, and ``accuracy/<answer_type>`` where items have one.
    """

    name = "vqav2"
    headline = ByProtocol("accuracy", "accuracy")
    gold = "answers"
    needs = ()
    unanswered = ByProtocol("wrong", "error")

    def _check(self, reference: Reference, place: int) -> None:
        super()._check(reference, place)
        for answer in reference.get("answers") or ():
            if not isinstance(answer, dict) or not isinstance(answer.get("answer"), str):
                expected = 'expected an object with a text "answer"'
                raise ValueError(f"vqav2: item {reference['id']!r} has the answer {answer!r}, {expected}")

    def _judge(self, text: str, reference: Reference) -> dict[str, Any]:
        answers = reference.get("answers")
        if self.protocol == "llava":
            parsed = evalai_answer(text)
            return {"score": official_accuracy(parsed, answers or []), "parsed": parsed}
        if answers is None:
            return {"score": 0.0, "parsed": text}
        parsed = vqa_answer(text)
        people = [{**answer, "answer": vqa_answer(answer["answer"])} for answer in answers]
        return {"score": agreement(parsed, people), "parsed": parsed}

    def _summary(self, rows: list[Row]) -> dict[str, float]:
        scores = {"accuracy": self.percent * mean(row.score for row in rows)}
        for kind, group in grouped(rows, lambda row: row.reference.get("answer_type")).items():
            scores[f"accuracy/{kind}"] = self.percent * mean(row.score for row in group)
        return scores


def official_accuracy(prediction: str, answers: list[dict[str, Any]]) -> float:
    """Accuracy of an uploaded answer, 0 to 1, by VQA's `vqaEval.py` of 2021.

    If all people gave the same answer nothing is normalised, not even the case.
    """
    prediction = one_line(prediction)
    people = [{**answer, "answer": one_line(answer["answer"])} for answer in answers]
    if len({answer["answer"] for answer in people}) > 1:
        prediction = vqa_answer(prediction, COMMA_OFFICIAL)
        people = [{**answer, "answer": vqa_answer(answer["answer"], COMMA_OFFICIAL)} for answer in people]
    return agreement(prediction, people)


def agreement(prediction: str, people: list[dict[str, Any]]) -> float:
    """Mean over people of min(1, others who gave the prediction / 3).

    "Others" are the *records* that differ, so equal records without an ``answer_id`` exclude one another.
    """
    if not people:
        return 0.0
    same = [person for person in people if person["answer"] == prediction]
    return mean(min(1.0, sum(other != person for other in same) / 3) for person in people)
