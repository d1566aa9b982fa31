"""LLaVA's own question files, ``llava_*.jsonl``: one object a line, its text the whole prompt of the user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UserError
from .files import read_json_lines
from .item import SHORT_ANSWER
from .records import Record


@dataclass(frozen=True, slots=True)
class LlavaQuestion:
    """One line.

    Attributes
    ----------
    id : str
        ``question_id``: a number or text.
    image : str
        Path of the image, relative to the benchmark's folder of images.
    text : str
        The prompt, instruction included.
    category : str, optional
        What part of the benchmark it belongs to.
    where : str
        File and line.
    """

    id: str
    image: str
    text: str
    category: str | None
    where: str

    @property
    def lines(self) -> list[str]:
        """The prompt's lines before the instruction."""
        body = self.text.removesuffix("\n" + SHORT_ANSWER)
        if body == self.text:
            expected = f"expected a text whose last line is {SHORT_ANSWER!r}"
            raise UserError(f"{self.where}, field text: found {self.text!r}, {expected}")
        return body.split("\n")

    @property
    def question(self) -> str:
        """The prompt without the instruction."""
        return "\n".join(self.lines)


def is_llava_file(path: Path) -> bool:
    """Whether this is one of LLaVA's question files, by its name."""
    return path.suffix == ".jsonl"


def read_llava_questions(path: Path) -> list[LlavaQuestion]:
    """All lines of such a file.

    Raises
    ------
    UserError
        A line is no JSON object, or lacks a field.
    """
    questions = []
    for where, row in read_json_lines(path):
        record = Record(row, where)
        category = row.get("category")
        questions.append(
            LlavaQuestion(record.key("question_id"), record.text("image"), record.text("text"), category, where)
        )
    return questions


def joined(question: LlavaQuestion, gold: Mapping[str, Any] | None, file: Path) -> Mapping[str, Any]:
    """The official row of a question.

    Raises
    ------
    UserError
        There is none in the official `file`.
    """
    if gold is None:
        raise UserError(f"{question.where}, field question_id: {question.id!r} is not in {file}")
    return gold
