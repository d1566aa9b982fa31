"""POPE: is there such an object in the image? Three ways to choose the objects that are not, 3000 questions each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from .benchmark import Benchmark, HubSplit, need_image
from .files import ImageFolders, needed_file, read_json_lines
from .item import SHORT_ANSWER
from .llava_files import is_llava_file, joined, read_llava_questions
from .records import Record

CATEGORIES = ("adversarial", "popular", "random")
_LLAVA_OFFSET = 10_000_000  # between the ids of LLaVA's categories
_IMAGES = ("val2014", "images", ".", "../val2014")


class POPE(Benchmark):
    """Official raw files: ``coco_pope_<category>.json`` (JSON lines) and ``val2014/``, or LLaVA's question file.

    The random category has 3000 questions now and had 2910 at the commit that LLaVA takes.
    """

    name = "pope"
    hub = "POPE"
    splits: ClassVar = {"test": HubSplit("test")} | {category: HubSplit(category, "Full") for category in CATEGORIES}
    columns = ("question_id", "question", "answer", "image")
    tokens: ClassVar = {"llava": 128, "lmms_eval": 128}

    def id(self, record: Record) -> str:
        return f"{_category(record)}/{record.key('question_id')}"

    def prompt(self, record: Record, protocol: str) -> str:
        need_image(record)
        return f"{record.text('question').strip()}\n{SHORT_ANSWER}"

    def reference(self, record: Record, protocol: str) -> dict[str, Any]:
        answer = record.text("answer").lower().strip()
        if answer not in ("yes", "no"):  # LLaVA would take anything but 'no' for a yes, lmms-eval stops
            raise record.error("answer", f"found {record.get('answer')!r}, expected yes or no")
        return {"answer": answer, "category": _category(record)}

    def table(self, source: str, split: str) -> list[Record]:
        """Of config `Full` each split is a category."""
        records = super().table(source, split)
        if split == "test":
            return records
        return [Record({**record.values, "category": split}, record.where, record.picture) for record in records]

    def raw(self, path: Path, split: str) -> list[Record]:
        categories = CATEGORIES if split == "test" else (split,)
        if is_llava_file(path):
            return self._llava(path, categories)
        files = [needed_file(path, *_places(name)) for name in categories] if path.is_dir() else [path]
        return [record for file in files for record in _labels(file)]

    def _llava(self, path: Path, categories: Sequence[str]) -> list[Record]:
        files = {name: needed_file(path.parent, *_places(name)) for name in categories}
        gold = {self.id(record): record for file in files.values() for record in _labels(file)}
        records = []
        for line in read_llava_questions(path):
            if line.category in categories:
                number = Record({"question_id": line.id}, line.where).number("question_id") % _LLAVA_OFFSET
                label = joined(line, gold.get(f"{line.category}/{number}"), files[line.category])
                records.append(Record(label.values, line.where, label.picture, line.text))
        return records


def _category(record: Record) -> str:
    category = record.get("category")
    if category not in CATEGORIES:
        raise record.error("category", f"found {category!r}, expected one of: {', '.join(CATEGORIES)}")
    return category


def _places(category: str) -> tuple[str, ...]:
    name = f"coco_pope_{category}.json"
    return name, f"coco/{name}", f"output/coco/{name}"


def _labels(file: Path) -> list[Record]:
    """A label file as the hub's rows."""
    found = re.search("|".join(CATEGORIES), file.stem)
    root = file.parent.parent if file.parent.name == "coco" else file.parent
    images = ImageFolders(root.parent if root.name == "output" else root, *_IMAGES)
    records = []
    for where, row in read_json_lines(file):
        record = Record(row, where)
        values = {
            "question_id": row.get("question_id"),
            "question": record.text("text"),
            "answer": record.text("label"),
            "category": found.group() if found else None,
        }
        records.append(Record(values, where, images.picture(record.text("image"), where)))
    return records
