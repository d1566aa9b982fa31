"""GQA, testdev balanced: 12 578 questions about relations, answered by a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from .benchmark import Benchmark, HubSplit, need_image
from .files import ImageFolders, first_file, keyed_rows, needed_file
from .item import SHORT_ANSWER
from .llava_files import is_llava_file, joined, read_llava_questions
from .records import Record
from .tables import read_table

_QUESTIONS = "testdev_balanced_questions.json"
_PLACES = (_QUESTIONS, f"data/{_QUESTIONS}", f"data/questions1.2/{_QUESTIONS}", f"questions1.2/{_QUESTIONS}")
_LLAVA = "llava_gqa_testdev_balanced.jsonl"
_IMAGES = ("images", "data/images", ".")


class GQA(Benchmark):
    """Official raw files: ``testdev_balanced_questions.json``, ``images/<imageId>.jpg``, or LLaVA's question file."""

    name = "gqa"
    hub = "GQA"
    splits: ClassVar = {"testdev": HubSplit("testdev", "testdev_balanced_instructions")}
    columns = ("id", "imageId", "question", "answer")
    tokens: ClassVar = {"llava": 128, "lmms_eval": 16}
    image_config = "testdev_balanced_images"

    def id(self, record: Record) -> str:
        return record.key("id")

    def prompt(self, record: Record, protocol: str) -> str:
        need_image(record)
        return f"{record.text('question')}\n{SHORT_ANSWER}"

    def reference(self, record: Record, protocol: str) -> dict[str, Any]:
        answer = record.get("answer")
        types = record.get("types")
        return {"answer": None if answer is None else record.text("answer")} | ({"types": types} if types else {})

    def table(self, source: str, split: str) -> list[Record]:
        """Questions and images are two tables, joined on the image's id."""
        records = super().table(source, split)
        place = self.splits[split]
        images = read_table(source, self.image_config, place.split, ("id", "image"))
        pictures = {record.key("id"): record.picture for record in images}
        made = []
        for record in records:
            if (name := record.key("imageId")) not in pictures:
                raise record.error("imageId", f"{name!r} is not in config {self.image_config!r}")
            made.append(Record(record.values, record.where, pictures[name]))
        return made

    def raw(self, path: Path, split: str) -> list[Record]:
        if path.is_dir():
            path = first_file(path, *_PLACES) or needed_file(path, _LLAVA, _QUESTIONS)
        if is_llava_file(path):
            return self._llava(path)
        images = ImageFolders(path.parent, *_IMAGES, "../images")
        records = []
        for name, row in keyed_rows(path).items():
            if not row.get("isBalanced", True):  # the official script scores the balanced ones only
                continue
            record = Record(row | {"id": name}, f"{path}, question {name!r}")
            picture = images.picture(f"{record.key('imageId')}.jpg", record.where)
            records.append(Record(record.values, record.where, picture))
        return records

    def _llava(self, path: Path) -> list[Record]:
        images = ImageFolders(path.parent, *_IMAGES)
        file = first_file(path.parent, *_PLACES)
        gold = keyed_rows(file) if file else None
        records = []
        for question in read_llava_questions(path):
            values = {"id": question.id, "question": question.question, "answer": None}
            if gold is not None:
                values |= joined(question, gold.get(question.id), file)
            picture = images.picture(question.image, question.where)
            records.append(Record(values, question.where, picture, question.text))
        return records
