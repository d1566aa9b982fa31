"""The table that MMBench's server scores, as LLaVA's ``convert_mmbench_for_submission.py`` makes it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from ...errors import UserError
from ...run_folder import write_bytes, write_text
from .item import Item

_OPTIONS = ("A", "B", "C", "D")


def write_upload(path: Path, items: Sequence[Item], predictions: Mapping[str, str]) -> Path:
    """Write index, question, A to D, prediction, answer (where there is one) and split.

    Raises
    ------
    UserError
        The path ends in ``.xlsx`` and openpyxl is not installed.
    """
    rows = _rows(items, predictions)
    if path.suffix == ".xlsx":
        write_bytes(path, _excel(path, rows))
    else:
        text = io.StringIO()
        csv.writer(text, dialect="excel-tab", lineterminator="\n").writerows(rows)
        write_text(path, text.getvalue())
    return path


def _rows(items: Sequence[Item], predictions: Mapping[str, str]) -> list[list]:
    answered = any(item.reference["answer"] is not None for item in items)
    rows = [["index", "question", *_OPTIONS, "prediction", *["answer"] * answered, "split"]]
    for item in items:
        row = item.reference
        options = [row["options"].get(letter) for letter in _OPTIONS]
        answer = [row["answer"]] * answered
        rows.append([row["index"], row["question"], *options, predictions.get(item.id), *answer, row["split"]])
    return rows


def _excel(path: Path, rows: list[list]) -> bytes:
    if find_spec("openpyxl") is None:
        raise UserError(f"{path}: Excel files need openpyxl (pip install openpyxl); or give a path that ends in .tsv")
    from openpyxl import Workbook

    book = Workbook(write_only=True)
    sheet = book.create_sheet()
    for row in rows:
        sheet.append(row)
    data = io.BytesIO()
    book.save(data)
    return data.getvalue()
