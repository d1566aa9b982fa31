"""Anybody's predictions file: ours, LLaVA's answers, lmms-eval's samples, or the results file of a server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from .benchmarks.files import read_text

_IDS = ("id", "question_id", "questionId")
_TEXTS = ("prediction", "text", "answer")


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer, and what its file says about the question.

    Attributes
    ----------
    text : str or None
        The answer; None where the file has null.
    where : str
        File and row, for messages.
    row : Mapping
        All fields of the row.
    key : str or None
        Id of the question as the file has it; None in lmms-eval's samples.
    doc_id : int or None
        Number of the row in the data set, in lmms-eval's samples only.
    """

    text: str | None
    where: str
    row: Mapping[str, Any]
    key: str | None = None
    doc_id: int | None = None


def read_answers(path: str | Path, skip_broken: bool = False) -> tuple[list[Answer], list[str]]:
    """All answers of a file: JSON lines, or one JSON array of objects.

    Parameters
    ----------
    path : str or Path
        The file.
    skip_broken : bool
        Leave out lines that are no JSON, as LLaVA's converter for VQAv2 does.

    Returns
    -------
    tuple of list
        The answers, and the places of the lines that were left out.

    Raises
    ------
    UserError
        The file cannot be read or is empty, a row is no JSON object or has no id or no answer.
    """
    text, broken, answers = read_text(Path(path)), [], []
    rows = _array(path, text) if text.lstrip().startswith("[") else _lines(path, text)
    for where, row in rows:
        if isinstance(row, ValueError):
            if not skip_broken:
                raise UserError(f"{where}: invalid JSON ({row})") from row
            broken.append(where)
        elif not isinstance(row, dict):
            raise UserError(f"{where}: found {type(row).__name__}, expected an object")
        else:
            answers.append(_sample(row, where) if "doc_id" in row else _answer(row, where))
    if not answers:
        raise UserError(f"{path}: there are no predictions")
    return answers, broken


def _lines(path: str | Path, text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines(): answers may hold others of Unicode
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                row = error
            yield f"{path}, line {number}", row


def _array(path: str | Path, text: str) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: invalid JSON ({error})") from error
    yield from ((f"{path}, [{number}]", row) for number, row in enumerate(rows))


def _answer(row: Mapping[str, Any], where: str) -> Answer:
    key = next((row[name] for name in _IDS if name in row), None)
    if isinstance(key, bool) or not isinstance(key, (str, int)):
        raise UserError(f"{where}, field {_IDS[0]}: found {key!r}, expected an id ({', '.join(_IDS)}, or doc_id)")
    field = next((name for name in _TEXTS if name in row), None)
    if field is None:
        raise UserError(f"{where}: no answer, expected one of the fields {', '.join(_TEXTS)}")
    return Answer(_text(row[field], where, field), where, row, key=str(key))


def _sample(row: Mapping[str, Any], where: str) -> Answer:
    """lmms-eval scores the first response only."""
    if isinstance(row["doc_id"], bool) or not isinstance(row["doc_id"], int):
        raise UserError(f"{where}, field doc_id: found {row['doc_id']!r}, expected a whole number")
    field = next((name for name in ("filtered_resps", "resps") if name in row), None)
    if field is None:
        raise UserError(f"{where}: no answer, expected the field filtered_resps or resps")
    response = row[field]
    while isinstance(response, list):
        response = response[0] if response else None
    return Answer(_text(response, where, field), where, row, doc_id=row["doc_id"])


def _text(value: Any, where: str, field: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where}, field {field}: found {value!r}, expected text")
    return value
