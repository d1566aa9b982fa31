"""VQAv2: 214 354 questions of `validation`, and `testdev` and `test`, whose answers only the EvalAI server has."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ..metrics.text import evalai_answer
from .benchmark import Benchmark, HubSplit, need_image, write_json
from .files import ImageFolders, first_file, json_rows, needed_file, read_json_lines
from .item import SHORT_ANSWER, Item
from .llava_files import is_llava_file, read_llava_questions
from .records import Record

_COCO = {"validation": "val2014", "testdev": "test-dev2015", "test": "test2015"}
_SUBSET = re.compile(r"train2014|val2014|test-dev2015|test2015")


class VQAv2(Benchmark):
    """Official raw files: ``v2_OpenEnded_mscoco_<subset>_questions.json``, ``v2_mscoco_<subset>_annotations.json`` and
    the images of COCO, or LLaVA's question file of test-dev.
    """

    name = "vqav2"
    hub = "VQAv2"
    splits: ClassVar = {split: HubSplit(split) for split in _COCO}
    columns = ("question_id", "question", "image")
    tokens: ClassVar = {"llava": 128, "lmms_eval": 16}
    answer = "answers"
    unanswered = ("lmms_eval",)

    def id(self, record: Record) -> str:
        return str(record.number("question_id"))

    def prompt(self, record: Record, protocol: str) -> str:
        need_image(record)
        return f"{record.text('question')}\n{SHORT_ANSWER}"

    def reference(self, record: Record, protocol: str) -> dict[str, Any]:
        """The answers keep all their fields: equal records exclude one another when they are counted."""
        types = {name: record.get(name) for name in ("question_type", "answer_type")}
        answers = record.get("answers")
        if not answers:
            return {"answers": None} | types
        if not isinstance(answers, list) or not all(_is_answer(one) for one in answers):
            raise record.error("answers", f"found {answers!r}, expected a list of objects with a text 'answer'")
        for one in answers:  # two million strings, of few different values
            one.update((name, sys.intern(value)) for name, value in one.items() if isinstance(value, str))
        return {"answers": answers} | types

    def raw(self, path: Path, split: str) -> list[Record]:
        if path.is_dir():
            subset = _COCO[split]
            path = needed_file(
                path,
                f"v2_OpenEnded_mscoco_{subset}_questions.json",
                f"*/v2_OpenEnded_mscoco_{subset}_questions.json",
                f"llava_vqav2_mscoco_{subset}.jsonl",
            )
        if is_llava_file(path):
            return self._llava(path)
        found = _SUBSET.search(path.name)
        subset = found.group() if found else _COCO[split]
        rows = json_rows(path, "questions")
        answers = self._annotations(path, subset)
        coco = subset.replace("test-dev", "test")
        images = ImageFolders(path.parent, coco, f"images/{coco}", f"Images/{coco}", "images", ".", f"../{coco}")
        records = []
        for i, row in enumerate(rows):
            record = Record(row, f"{path}, questions[{i}]")
            picture = images.picture(f"COCO_{coco}_{record.number('image_id'):012d}.jpg", record.where)
            values = dict(row) | answers.get(record.number("question_id"), {})
            records.append(Record(values, record.where, picture))
        return records

    def submission(
        self,
        path: str | Path,
        items: Sequence[Item],
        predictions: Mapping[str, str],
        questions: str | Path | None = None,
    ) -> Path:
        """The results file of the EvalAI server: ``[{"question_id", "answer"}, …]``, as LLaVA's converter makes it.

        Answers pass the EvalAI processor; a question without one gets ``""``.

        Parameters
        ----------
        questions : str or Path, optional
            The official questions file of test2015, or LLaVA's: the server wants all of its questions, also where only
            those of test-dev were asked.
        """
        ids = [int(item.id) for item in items]
        if questions is not None:
            ids = list(dict.fromkeys(_question_ids(Path(questions)) + ids))
        answers = {int(name): evalai_answer(text) for name, text in predictions.items()}
        return write_json(path, [{"question_id": name, "answer": answers.get(name, "")} for name in ids])

    def _annotations(self, path: Path, subset: str) -> dict[int, Mapping[str, Any]]:
        """Question id -> annotation; nothing where the subset has none in public."""
        if subset.startswith("test"):
            return {}
        name = f"v2_mscoco_{subset}_annotations.json"
        file = first_file(path.parent, name, f"*/{name}", f"../*/{name}") or needed_file(path.parent, name)
        rows = json_rows(file, "annotations")
        return {Record(row, f"{file}, annotations[{i}]").number("question_id"): row for i, row in enumerate(rows)}

    def _llava(self, path: Path) -> list[Record]:
        found = _SUBSET.search(path.name)
        coco = found.group().replace("test-dev", "test") if found else "test2015"
        images = ImageFolders(path.parent, coco, "images", ".")
        return [
            Record(
                {"question_id": question.id, "question": question.question},
                question.where,
                images.picture(question.image, question.where),
                question.text,
            )
            for question in read_llava_questions(path)
        ]


def _is_answer(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("answer"), str)


def _question_ids(file: Path) -> list[int]:
    if is_llava_file(file):
        return [Record(row, where).number("question_id") for where, row in read_json_lines(file)]
    rows = json_rows(file, "questions")
    return [Record(row, f"{file}, questions[{i}]").number("question_id") for i, row in enumerate(rows)]
