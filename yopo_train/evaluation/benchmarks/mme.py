"""MME: two questions an image, one to be answered yes and one no, in 14 categories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ...errors import UserError
from ..metrics.mme import COGNITION, PERCEPTION
from .benchmark import Benchmark, HubSplit, need_image
from .files import ImageFolders, read_text
from .item import SHORT_ANSWER, Item
from .llava_files import is_llava_file, read_llava_questions
from .records import Record

_CATEGORIES = (*PERCEPTION, *COGNITION)
_ENDING = " Please answer yes or no."
_FOLDER = "MME_Benchmark_release_version"
_SUFFIXES = (".jpg", ".png", ".jpeg")


class MME(Benchmark):
    """Official raw files: a folder for each category, either with ``<name>.txt`` beside ``<name>.jpg``, or with
    ``questions_answers_YN/`` and ``images/``; or LLaVA's ``llava_mme.jsonl`` beside them.

    Pairs are (category, image): the references need both questions of every image.
    """

    name = "mme"
    hub = "MME"
    splits: ClassVar = {"test": HubSplit("test")}
    columns = ("question_id", "image", "question", "answer", "category")
    tokens: ClassVar = {"llava": 128, "lmms_eval": 16}

    def id(self, record: Record) -> str:
        return record.key("id")

    def prompt(self, record: Record, protocol: str) -> str:
        """Where a stored question has two spaces before its last sentence, lmms-eval leaves one; LLaVA's file none."""
        need_image(record)
        question = record.text("question").strip().replace(_ENDING, "")
        return f"{question if protocol == 'lmms_eval' else question.rstrip()}\n{SHORT_ANSWER}"

    def reference(self, record: Record, protocol: str) -> dict[str, Any]:
        answer = record.text("answer").lower().strip().replace(".", "")  # as lmms-eval, which then stops
        if answer not in ("yes", "no"):
            raise record.error("answer", f"found {record.get('answer')!r}, expected Yes or No")
        return {
            "answer": answer.capitalize(),
            "category": record.text("category"),
            "image": _image_key(record),
            "question": record.text("question"),
        }

    def group(self, item: Item) -> Hashable:
        return item.reference["image"]

    def check(self, items: Sequence[Item], records: Sequence[Record]) -> None:
        """lmms-eval asserts pairs, the official tool takes two lines at a time."""
        counts = Counter(item.reference["image"] for item in items)
        for item, record in zip(items, records, strict=True):
            if (found := counts[item.reference["image"]]) != 2:
                problem = f"{item.reference['image']!r} has {found} question{'s' * (found != 1)}, expected 2"
                raise record.error("question_id", f"{problem}: MME is scored by pairs")

    def table(self, source: str, split: str) -> list[Record]:
        return _numbered(super().table(source, split))

    def raw(self, path: Path, split: str) -> list[Record]:
        if is_llava_file(path):
            return self._llava(path)
        root = path / _FOLDER if (path / _FOLDER).is_dir() else path
        folders = sorted(folder for folder in root.iterdir() if folder.is_dir()) if root.is_dir() else []
        records: list[Record] = []
        for folder in folders:
            questions = _questions(folder)
            if questions and folder.name not in _CATEGORIES:
                raise UserError(f"{folder}: unknown category {folder.name!r}; expected {', '.join(_CATEGORIES)}")
            records += questions
        if not records:
            expected = "<category>/<name>.txt or <category>/questions_answers_YN/<name>.txt"
            raise UserError(f"{root}: none of its official files is there; expected {expected}")
        return _numbered(records)

    def _llava(self, path: Path) -> list[Record]:
        """Its prompts lack the stored question's last sentence: answers are found by image and prompt."""
        root = path.parent / _FOLDER
        official = self.raw(root if root.is_dir() else path.parent, "test")
        gold = {(_without_suffix(_image_key(record)), self.prompt(record, "llava")): record for record in official}
        records = []
        for line in read_llava_questions(path):
            category, name = line.id.split("/")[0], line.id.split("/")[-1]
            label = gold.get((_without_suffix(f"{category}/{name}"), line.text))
            if label is None:
                raise UserError(f"{line.where}, field text: {line.id!r} has no such question in {official[0].where}")
            records.append(Record(label.values, line.where, label.picture, line.text))
        return records


def _image_key(record: Record) -> str:
    """``<category>/<file>``, whatever folders the id of a question has between them."""
    return f"{record.text('category')}/{record.key('question_id').split('/')[-1]}"


def _without_suffix(image: str) -> str:
    return image.split(".")[0]  # as scripts/convert_answer_to_mme.py


def _numbered(records: Sequence[Record]) -> list[Record]:
    """An id for each question: that of its image, and which of the image's questions it is."""
    seen: Counter[str] = Counter()
    made = []
    for record in records:
        key = _image_key(record)
        seen[key] += 1
        made.append(Record({**record.values, "id": f"{key}#{seen[key]}"}, record.where, record.picture))
    return made


def _questions(folder: Path) -> list[Record]:
    """The questions of one category's folder."""
    apart = (folder / "questions_answers_YN").is_dir()
    images = ImageFolders(folder, "images" if apart else ".")
    records = []
    for file in sorted((folder / "questions_answers_YN" if apart else folder).glob("*.txt")):
        for number, line in enumerate(read_text(file).split("\n"), 1):
            if not line.strip():
                continue
            where = f"{file}, line {number}"
            parts = line.strip().split("\t")
            if len(parts) != 2:
                raise UserError(f"{where}: {len(parts)} fields, expected a question, a tab, and Yes or No")
            picture = images.picture([file.stem + suffix for suffix in _SUFFIXES], where)
            name = f"{folder.name}/{Path(picture.path).name}"
            values = {"question_id": name, "question": parts[0], "answer": parts[1], "category": folder.name}
            records.append(Record(values, where, picture))
    return records
