"""TextVQA: 5000 questions of `validation`, and `test`, whose answers only the EvalAI server has.

LLaVA's prompt tells the model what an OCR system read; lmms-eval's does not. It is the largest difference between the
protocols of all benchmarks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ..metrics.text import evalai_answer
from .benchmark import Benchmark, HubSplit, need_image, write_json
from .files import ImageFolders, first_file, json_rows, needed_file
from .item import SHORT_ANSWER, Item
from .llava_files import LlavaQuestion, is_llava_file, joined, read_llava_questions
from .records import Record

OCR_LINE = "Reference OCR token: "
_SHORT = {"validation": "val", "test": "test"}
_IMAGES = ("train_images", "test_images", "train_val_images/train_images", "images", ".")
_LLAVA = "llava_textvqa_val_v051_ocr.jsonl"


class TextVQA(Benchmark):
    """Official raw files: ``TextVQA_0.5.1_<split>.json``, ``train_images/<image_id>.jpg``, and for LLaVA's prompt
    ``llava_textvqa_val_v051_ocr.jsonl`` or ``TextVQA_Rosetta_OCR_v0.2_<split>.json``.
    """

    name = "textvqa"
    hub = "textvqa"
    splits: ClassVar = {"validation": HubSplit("validation"), "test": HubSplit("test")}
    columns = ("question_id", "image_id", "question", "image", "ocr_tokens")
    tokens: ClassVar = {"llava": 128, "lmms_eval": 1024}
    answer = "answers"
    unanswered = ("lmms_eval",)

    def id(self, record: Record) -> str:
        return record.key("question_id")

    def prompt(self, record: Record, protocol: str) -> str:
        need_image(record)
        question = record.text("question").capitalize()
        if protocol == "lmms_eval":
            return f"{question}\n{SHORT_ANSWER}"
        if record.get("ocr_tokens") is None:
            expected = f"expected them in the row, {_LLAVA} or TextVQA_Rosetta_OCR_v0.2_*.json beside the questions"
            raise record.error("ocr_tokens", f"missing, but LLaVA's prompt names them; {expected}")
        return f"{question}\n{OCR_LINE}{', '.join(record.texts('ocr_tokens'))}\n{SHORT_ANSWER}"

    def reference(self, record: Record, protocol: str) -> dict[str, Any]:
        """LLaVA's evaluator insists on ten answers, lmms-eval takes any number."""
        more = {"image_id": record.key("image_id"), "question": record.text("question")}
        if not record.get("answers") or not any(answers := record.texts("answers")):  # of test: none, or empty ones
            return {"answers": None} | more
        if protocol == "llava" and len(answers) != 10:
            raise record.error("answers", f"found {len(answers)}, expected 10")
        return {"answers": answers} | more

    def raw(self, path: Path, split: str) -> list[Record]:
        if path.is_dir():
            name = f"TextVQA_0.5.1_{_SHORT[split]}.json"
            path = needed_file(path, name, f"*/{name}", *[_LLAVA] * (split == "validation"))
        if is_llava_file(path):
            return self._llava(path)
        rows = json_rows(path, "data")
        images = ImageFolders(path.parent, *_IMAGES)
        tokens = _ocr_tokens(path, split)
        records = []
        for i, row in enumerate(rows):
            record = Record({"question_id": i} | row, f"{path}, data[{i}]")
            key = (record.key("image_id"), record.text("question").lower())
            found = record.get("ocr_tokens")
            found = tokens.get(key, tokens.get(key[0])) if found is None else found
            picture = images.picture([f"{key[0]}.jpg", f"{key[0]}.png"], record.where)
            records.append(Record(record.values | {"ocr_tokens": found}, record.where, picture))
        return records

    def submission(self, path: str | Path, items: Sequence[Item], predictions: Mapping[str, str]) -> Path:
        """The results file of the EvalAI server: ``[{"question_id", "answer"}, …]``, answers through its processor."""
        rows = [(item.id, evalai_answer(predictions.get(item.id, ""))) for item in items]
        return write_json(path, [{"question_id": int(name), "answer": answer} for name, answer in rows])

    def _llava(self, path: Path) -> list[Record]:
        """LLaVA's ids are those of images: its evaluator finds the answers by image id and lower-cased question."""
        file = first_file(path.parent, "TextVQA_0.5.1_val.json", "*/TextVQA_0.5.1_val.json")
        gold: dict[tuple[str, str], Mapping[str, Any]] = {}
        for i, row in enumerate(json_rows(file, "data") if file else ()):
            record = Record({"question_id": i} | row, f"{file}, data[{i}]")
            gold[record.key("image_id"), record.text("question").lower()] = record.values  # the last one, as LLaVA
        images = ImageFolders(path.parent, *_IMAGES)
        records = []
        for i, line in enumerate(read_llava_questions(path)):
            values = {"question_id": str(i), "image_id": line.id, "question": line.lines[0]}
            if file:
                values = joined(line, gold.get((line.id, line.lines[0].lower())), file)
            picture = images.picture(line.image, line.where)
            records.append(Record({**values, "ocr_tokens": _tokens(line)}, line.where, picture, line.text))
        return records


def _tokens(line: LlavaQuestion) -> list[str]:
    """What stands behind the OCR line's name; joined again it is the same text."""
    text = next((part for part in line.lines[1:] if part.startswith(OCR_LINE)), OCR_LINE)
    return text.removeprefix(OCR_LINE).split(", ")


def _ocr_tokens(path: Path, split: str) -> dict[Any, list[str]]:
    """OCR tokens by (image id, lower-cased question) from LLaVA's file, or by image id from Rosetta's."""
    if split == "validation" and (file := first_file(path.parent, _LLAVA)):
        return {(line.id, line.lines[0].lower()): _tokens(line) for line in read_llava_questions(file)}
    if file := first_file(path.parent, f"TextVQA_Rosetta_OCR_v0.2_{_SHORT[split]}.json"):
        records = [Record(row, f"{file}, data[{i}]") for i, row in enumerate(json_rows(file, "data"))]
        return {record.key("image_id"): record.texts("ocr_tokens") for record in records}
    return {}
