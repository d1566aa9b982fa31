"""MMBench (English): multiple choice, every question asked with its options rotated; a hit is all rotations right."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ...errors import UserError
from .benchmark import Benchmark, HubSplit, need_image
from .files import first_file
from .item import LETTER_ANSWER, Item
from .mmbench_images import tsv_pictures
from .mmbench_upload import write_upload
from .records import Record
from .tsv import read_tsv

CIRCLE = 1_000_000
"""A question's rotations have its index plus multiples of this."""
_SPLITS = ("dev", "test")
_NEEDED = ("index", "question", "A", "B", "image")


class MMBench(Benchmark):
    """Official raw file: a TSV with base64 images, e.g. ``mmbench_dev_20230712.tsv``. `test` has no public answers."""

    name = "mmbench"
    hub = "MMBench"
    splits: ClassVar = {split: HubSplit(split, "en") for split in _SPLITS}
    columns = ("index", "question", "hint", "A", "B", "C", "D", "category", "L2-category", "image")
    tokens: ClassVar = {"llava": 1024, "lmms_eval": 1024}

    def id(self, record: Record) -> str:
        return str(record.number("index"))

    def prompt(self, record: Record, protocol: str) -> str:
        need_image(record)
        return _llava_prompt(record) if protocol == "llava" else _lmms_prompt(record)

    def reference(self, record: Record, protocol: str) -> dict[str, Any]:
        options = {letter: text for letter in "ABCDE" if (text := _value(record, letter)) is not None}
        answer = _value(record, "answer")
        if answer is not None and answer not in options:
            raise record.error("answer", f"found {answer!r}, expected one of: {', '.join(options)}")
        return {
            "index": record.number("index"),
            "answer": answer,
            "options": options,
            "category": record.get("category"),
            "l2_category": record.get("L2-category"),
            "question": record.text("question"),
            "split": record.get("split"),
        }

    def group(self, item: Item) -> Hashable:
        return item.reference["index"] % CIRCLE

    def raw(self, path: Path, split: str) -> list[Record]:
        path = _table(path, split) if path.is_dir() else path
        rows = list(read_tsv(path, spans=("image",)))
        if rows and (missing := [name for name in _NEEDED if name not in rows[0][1]]):
            raise UserError(f"{path}: no column {', '.join(missing)}; found: {', '.join(rows[0][1])}")
        pictures = tsv_pictures(path, rows)
        return [Record(_hub_names(row), where, pictures[i]) for i, (where, row) in enumerate(rows)]

    def submission(self, path: str | Path, items: Sequence[Item], predictions: Mapping[str, str]) -> Path:
        """The upload table of LLaVA's converter: index, question, A to D, prediction, answer, split.

        A row without a prediction stays empty there. The server wants Excel: for a path that ends in ``.xlsx`` openpyxl
        must be installed; any other is written as a TSV.
        """
        return write_upload(Path(path), items, predictions)


def _value(record: Record, name: str) -> str | None:
    """A field that may be missing; the hub's rows have the text ``nan`` there."""
    value = record.get(name)
    return None if value is None or value in ("", "nan") else record.text(name)


def _llava_prompt(record: Record) -> str:
    """llava/eval/model_vqa_mmbench.py: the options end at the first that is missing, or the word None."""
    parts = [record.text("question")]
    hint = _value(record, "hint")
    if hint is not None and not _is_none(hint):
        parts.insert(0, hint)
    for letter in "ABCD":
        text = _value(record, letter)
        if text is None or _is_none(text):
            break
        parts.append(f"{letter}. {text}")
    return "\n".join([*parts, LETTER_ANSWER])


def _lmms_prompt(record: Record) -> str:
    """lmms_eval/tasks/mmbench: every option that is there, and two line breaks before the instruction."""
    options = "".join(f"{letter}. {text}\n" for letter in "ABCDE" if (text := _value(record, letter)) is not None)
    options = f"There are several options:\n{options}".rstrip("\n")
    hint = record.get("hint")
    hint = "" if hint is None or hint == "nan" else f"{record.text('hint')} "
    return f"{hint}{record.text('question')} {options}\n\n{LETTER_ANSWER}"


def _is_none(text: str) -> bool:
    return text.lower() in ("nan", "none")


def _table(folder: Path, split: str) -> Path:
    """The one TSV of the split; LLaVA's by its name, or MMBench's."""
    named = (f"mmbench_{split}_20230712.tsv", f"mmbench_{split}_en*.tsv", f"MMBench_{split.upper()}_EN*.tsv")
    if (found := first_file(folder, *named)) is not None:
        return found
    files = sorted(file.name for file in folder.glob("*.tsv"))
    if len(files) == 1 and split in files[0].lower():
        return folder / files[0]
    raise UserError(f"{folder}: found {', '.join(files) or 'no .tsv file'}; expected {' or '.join(named)}")


def _hub_names(row: Mapping[str, Any]) -> dict[str, Any]:
    """The TSV's columns as the hub calls them."""
    named = {("L2-category" if name.lower() == "l2-category" else name): value for name, value in row.items()}
    named.pop("image", None)
    return named
