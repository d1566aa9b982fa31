"""ScienceQA: multiple choice, with an image (IMG: 2017 test questions) or without (4241 in all)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from string import ascii_uppercase
from typing import Any, ClassVar

from ...errors import UserError
from .benchmark import Benchmark, HubSplit
from .files import ImageFolders, keyed_rows, needed_file, read_json
from .item import LETTER_ANSWER
from .records import Record

_OFFICIAL = {"test": "test", "validation": "val"}
_LLAVA = "llava_test_CQM-A.json"


class ScienceQA(Benchmark):
    """Official raw files: ``problems.json``, ``pid_splits.json`` and ``images/<split>/<id>/image.png``, or LLaVA's
    ``llava_test_CQM-A.json`` with problems.json beside it.

    The splits `test` and `validation` are the questions with an image, the paper's ScienceQA-IMG; `test_full` and
    `validation_full` are all.
    """

    name = "scienceqa"
    hub = "ScienceQA"
    splits: ClassVar = {
        "test": HubSplit("test", "ScienceQA-IMG"),
        "validation": HubSplit("validation", "ScienceQA-IMG"),
        "test_full": HubSplit("test", "ScienceQA-FULL"),
        "validation_full": HubSplit("validation", "ScienceQA-FULL"),
    }
    columns = ("image", "question", "choices", "answer", "hint")
    tokens: ClassVar = {"llava": 1024, "lmms_eval": 16}

    def id(self, record: Record) -> str:
        return record.key("id")

    def prompt(self, record: Record, protocol: str) -> str:
        """The same text in both harnesses."""
        hint = record.get("hint")
        context = f"Context: {hint}\n" if hint else ""
        choices = "".join(
            f"{letter}. {text}\n" for letter, text in zip(ascii_uppercase, _choices(record), strict=False)
        )
        return f"{context}{record.text('question')}\n{choices}{LETTER_ANSWER}"

    def reference(self, record: Record, protocol: str) -> dict[str, Any]:
        choices, answer = _choices(record), record.get("answer")
        if answer is not None:
            answer = record.number("answer")
            if not 0 <= answer < len(choices):
                raise record.error("answer", f"found {answer}, expected 0 to {len(choices) - 1}: one of the choices")
        made = {"answer": answer, "choices": choices, "image": record.picture is not None}
        subject = record.get("subject")
        return made | ({"subject": subject} if subject else {})

    def table(self, source: str, split: str) -> list[Record]:
        """The hub's rows have no id: it is their number."""
        records = super().table(source, split)
        return [
            Record(dict(record.values) | {"id": record.get("id") or str(i)}, record.where, record.picture)
            for i, record in enumerate(records)
        ]

    def raw(self, path: Path, split: str) -> list[Record]:
        base, _, full = split.partition("_")
        if path.is_dir():
            path = needed_file(path, "problems.json", "data/scienceqa/problems.json")
        problems = keyed_rows(path.parent / "problems.json" if path.name == _LLAVA else path)
        images = ImageFolders(path.parent, f"images/{_OFFICIAL[base]}", _OFFICIAL[base], "images")
        if path.name == _LLAVA:
            records = _llava(path, problems, images)
        else:
            names = _ids(path.parent / "pid_splits.json", _OFFICIAL[base])
            records = _official(path, problems, names, images)
        return [record for record in records if full or record.picture is not None]


def _choices(record: Record) -> list[str]:
    choices = record.texts("choices")
    if not 1 <= len(choices) <= len(ascii_uppercase):
        raise record.error("choices", f"found {len(choices)}, expected 1 to {len(ascii_uppercase)}")
    return choices


def _ids(file: Path, split: str) -> list[str]:
    splits = read_json(file)
    names = splits.get(split)
    if not isinstance(names, list):
        raise UserError(f"{file}: there is no split {split!r}; found: {', '.join(splits)}")
    return [str(name) for name in names]


def _official(path: Path, problems: dict, names: Iterable[str], images: ImageFolders) -> list[Record]:
    records = []
    for name in names:
        where = f"{path}, problem {name!r}"
        if name not in problems:
            raise UserError(f"{where}: missing, but pid_splits.json names it")
        values = {**problems[name], "id": name}
        picture = images.picture(f"{name}/{values['image']}", where) if values.get("image") else None
        records.append(Record(values, where, picture))
    return records


def _llava(path: Path, problems: dict, images: ImageFolders) -> list[Record]:
    """LLaVA's order and its prompts; choices and answers are the problems'."""
    records = []
    for i, row in enumerate(read_json(path, list)):
        line = Record(row if isinstance(row, dict) else {}, f"{path}, [{i}]")
        name, turns = line.key("id"), line.get("conversations")
        if name not in problems:
            raise line.error("id", f"{name!r} is not in problems.json")
        first = turns[0] if isinstance(turns, list) and turns else None
        if not isinstance(first, dict) or not isinstance(first.get("value"), str):
            raise line.error("conversations", f"found {turns!r}, expected a list that begins with the question")
        text = first["value"].replace("<image>", "").strip()  # as llava/eval/model_vqa_science.py
        picture = images.picture(line.text("image"), line.where) if line.get("image") else None
        records.append(Record({**problems[name], "id": name}, line.where, picture, text))
    return records
