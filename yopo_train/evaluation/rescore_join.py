"""Which question of a benchmark a row of somebody's predictions file answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import UserError
from .benchmarks import Item, get_benchmark
from .benchmarks.records import Record
from .rescore_file import Answer

_POPE_OFFSET = 10_000_000
_POPE_ORDER = ("adversarial", "random", "popular")  # of LLaVA's question file, whose ids are offset by category


def references_of(name: str, answers: Sequence[Answer], protocol: str) -> tuple[list[Mapping[str, Any]], list[str]]:
    """The references that a file brings itself, and the id of each answer: ours, and lmms-eval's older samples.

    Raises
    ------
    UserError
        A row has none.
    """
    references, ids = {}, []
    for answer in answers:
        if answer.doc_id is None:
            reference = answer.row.get("reference")
            key = answer.key
        else:
            doc, key = answer.row.get("doc"), str(answer.doc_id)
            found = isinstance(doc, dict)
            reference = get_benchmark(name).reference(Record(doc, answer.where), protocol) if found else None
        if not isinstance(reference, dict):
            data = f"expected --data with the questions of {name} (a folder, official files or a hub id)"
            raise UserError(f"{answer.where}: the row holds no reference; {data}")
        references.setdefault(key, {**reference, "id": key})
        ids.append(key)
    return list(references.values()), ids


def find_ids(name: str, answers: Sequence[Answer], items: Sequence[Item]) -> list[str | None]:
    """Id of the item that each answer is about; None where there is no such item."""
    known = {item.id for item in items}
    others = _OTHER_KEYS[name](items) if name in _OTHER_KEYS else lambda answer: None
    ids = []
    for answer in answers:
        if answer.doc_id is not None:
            ids.append(_by_place(name, answer, items))
        else:
            ids.append(answer.key if answer.key in known else others(answer))
    return ids


def _by_place(name: str, answer: Answer, items: Sequence[Item]) -> str | None:
    """lmms-eval numbers the rows of its data set. What it took for the right answer tells whether ours is the same."""
    if not 0 <= answer.doc_id < len(items):
        return None
    item, target = items[answer.doc_id], answer.row.get("target")
    gold = item.reference.get("answer")  # the VQA benchmarks have answers, and several targets would do
    gold = chr(ord("A") + gold) if name == "scienceqa" and gold is not None else gold
    if isinstance(target, str) and gold is not None and target.strip().lower() != str(gold).strip().lower():
        hint = "expected --data to be the split that lmms-eval has read, in its order"
        raise UserError(f"{answer.where}, field target: found {target!r}, row {answer.doc_id} has {gold!r}; {hint}")
    return item.id


# -- what LLaVA's answers call the questions -----------------------------------------------------------------------
def _pope(items: Sequence[Item]) -> Callable[[Answer], str | None]:
    """Ours is ``<category>/<number>``; LLaVA's one number, offset by category."""
    known = {item.id for item in items}

    def find(answer: Answer) -> str | None:
        if not answer.key.isascii() or not answer.key.isdigit():
            return None
        place, number = divmod(int(answer.key), _POPE_OFFSET)
        category = answer.row.get("category") or _POPE_ORDER[min(place, len(_POPE_ORDER) - 1)]
        key = f"{category}/{number}"
        return key if key in known else None

    return find


def _mme(items: Sequence[Item]) -> Callable[[Answer], str | None]:
    """LLaVA's id is that of the image; the prompt tells its questions apart."""
    known = {(_without_suffix(item.reference["image"]), _words(item.prompt)): item.id for item in items}
    return lambda answer: known.get((_without_suffix(answer.key), _words(answer.row.get("prompt"))))


def _textvqa(items: Sequence[Item]) -> Callable[[Answer], str | None]:
    """LLaVA's id is that of the image; the question is the first line of its prompt, in lower case."""
    known = {(str(item.reference["image_id"]), item.reference["question"].lower()): item.id for item in items}
    return lambda answer: known.get((answer.key, str(answer.row.get("prompt", "")).partition("\n")[0].lower()))


_OTHER_KEYS = {"pope": _pope, "mme": _mme, "textvqa": _textvqa}


def _without_suffix(image: str) -> tuple[str, str]:
    """Category and file name, without the folders between them and the ending."""
    return image.split("/")[0], image.split("/")[-1].split(".")[0]


def _words(text: Any) -> str:
    return " ".join(str(text).split())
