"""What all benchmark metrics share: one state an item, so that groups of items work on any number of ranks."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from .text import without_reasoning

Reference = Mapping[str, Any]


class ByProtocol(NamedTuple):
    """What differs between the two."""

    llava: str
    lmms_eval: str


PROTOCOLS = ByProtocol._fields


@dataclass(frozen=True)
class Row:
    """An item and what the model did with it, over all ranks.

    Attributes
    ----------
    reference : Mapping
        What the metric was given.
    score : float
        0 to 1.
    label : str or None
        The one of the metric's `labels` that was parsed.
    answered : bool
        Whether there was a prediction.
    """

    reference: Reference
    score: float
    label: str | None
    answered: bool


class ItemMetric(Metric, ABC):
    """Score of a benchmark whose items are known beforehand.

    Each item has its own place in the states, so summing over ranks brings the items of a group together whichever
    ranks saw them, and an item counted twice or not at all is noticed.

    Parameters
    ----------
    references : sequence of Mapping
        All items, in the benchmark's order, each with a unique ``"id"`` and the fields that the subclass names.
    protocol : {"llava", "lmms_eval"}
        Whose scorer to reproduce.
    reasoning_tags : bool
        Remove ``<think>`` and ``<analysis>`` blocks first, as lmms-eval does when started from its command line.

    Attributes
    ----------
    seen : Tensor
        int64 ``(items,)``: predictions counted, summed over ranks.
    score : Tensor
        float64 ``(items,)``: their scores, summed over ranks.
    said : Tensor
        int64 ``(items, labels)``: labels parsed, summed over ranks.

    Raises
    ------
    ValueError
        No items, two of one id, a field is missing, or an option does not exist in the protocol.
    """

    full_state_update = False
    higher_is_better = True
    name: ClassVar[str]
    headline: ClassVar[ByProtocol]
    """Key of the number that tables print."""
    gold: ClassVar[str] = "answer"
    """Field of the references with the right answers."""
    needs: ClassVar[tuple[tuple[str, type], ...]] = (("answer", str),)
    """Fields that every reference must have, and their types."""
    labels: ClassVar[tuple[str, ...]] = ()
    unanswered: ClassVar[ByProtocol] = ByProtocol("error", "error")
    """What the reference makes of an item without a prediction: "wrong", "left out" or "error"."""
    nothing: ClassVar[ByProtocol] = ByProtocol("", "")
    """The text that stands for no prediction."""
    seen: Tensor
    score: Tensor
    said: Tensor

    def __init__(
        self, references: Sequence[Reference], protocol: str = "llava", reasoning_tags: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol is {protocol!r}, expected one of {', '.join(PROTOCOLS)}")
        if reasoning_tags and protocol != "lmms_eval":
            raise ValueError(f"reasoning_tags is for the protocol lmms_eval, found {protocol}")
        if not references:
            raise ValueError(f"{self.name}: no items to score")
        if all(reference.get(self.gold) in (None, []) for reference in references):
            raise ValueError(
                f"{self.name}: no item has {self.gold}; a split without public answers can be submitted only"
            )
        self.protocol, self.reasoning_tags = protocol, reasoning_tags
        self.references = list(references)
        self._place: dict[str, int] = {}
        for place, reference in enumerate(self.references):
            self._check(reference, place)
            if self._place.setdefault(reference["id"], place) != place:
                raise ValueError(f"{self.name}: two items have the id {reference['id']!r}")
        count = len(self.references)
        self.add_state("seen", torch.zeros(count, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("score", torch.zeros(count, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("said", torch.zeros(count, len(self.labels), dtype=torch.int64), dist_reduce_fx="sum")

    # -- what a benchmark writes ---------------------------------------------------------------------------------
    @abstractmethod
    def _judge(self, text: str, reference: Reference) -> dict[str, Any]:
        """``{"score": 0 to 1, "parsed": ...}`` of a stripped prediction."""

    @abstractmethod
    def _summary(self, rows: list[Row]) -> dict[str, float]:
        """The numbers of the benchmark from its items, in their order."""

    # -- what its users call -------------------------------------------------------------------------------------
    def judge(self, prediction: str | None, reference: Reference) -> dict[str, Any]:
        """What the protocol makes of one prediction.

        Returns
        -------
        dict
            ``score``, 0 to 1, and ``parsed``, the label, letter or normalised answer that was compared.
        """
        text = getattr(self.nothing, self.protocol) if prediction is None else prediction
        text = without_reasoning(text) if self.reasoning_tags else text
        return self._judge(text.strip(), reference)

    def update(self, predictions: Sequence[str | None], references: Sequence[Reference]) -> None:
        """Count a batch; of `references` only the ids are read.

        Raises
        ------
        ValueError
            An id is none of the metric's items, or the lengths differ.
        """
        places, scores, said = [], [], []
        for prediction, reference in zip(predictions, references, strict=True):
            place = self._place.get(reference["id"])
            if place is None:
                raise ValueError(f"{self.name}: prediction for {reference['id']!r}, which is no item of the benchmark")
            judged = self.judge(prediction, self.references[place])
            places.append(place)
            scores.append(float(judged["score"]))
            said.append([int(judged.get("parsed") == label) for label in self.labels])
        where = torch.tensor(places, dtype=torch.int64, device=self.seen.device)
        self.seen.index_add_(0, where, torch.ones_like(where))
        self.score.index_add_(0, where, torch.tensor(scores, dtype=self.score.dtype, device=where.device))
        said = torch.tensor(said, dtype=torch.int64, device=where.device).reshape(len(places), len(self.labels))
        self.said.index_add_(0, where, said)

    def compute(self) -> dict[str, float]:
        """The numbers over all ranks, the headline among them, and ``missing`` if the reference tolerates that.

        Raises
        ------
        ValueError
            An item was counted twice, or is missing where the reference needs all.
        """
        seen, score, said = self.seen.tolist(), self.score.tolist(), self.said.tolist()
        twice = [ref["id"] for ref, count in zip(self.references, seen, strict=True) if count > 1]
        if twice:
            raise ValueError(f"{self.name}: {len(twice)} items were counted more than once, the first is {twice[0]!r}")
        missing = [ref["id"] for ref, count in zip(self.references, seen, strict=True) if not count]
        rule = getattr(self.unanswered, self.protocol)
        if missing and (rule == "error" or len(missing) == len(seen)):
            total = f"{len(missing)} of {len(seen)} items have no prediction"
            raise ValueError(f"{self.name}: {total}, the first is {missing[0]!r}; the protocol needs all")
        rows = []
        for reference, count, points, labels in zip(self.references, seen, score, said, strict=True):
            if count:
                label = next((name for name, times in zip(self.labels, labels, strict=True) if times), None)
                rows.append(Row(reference, points, label, True))
            elif rule == "wrong":
                rows.append(Row(reference, float(self.judge(None, reference)["score"]), None, False))
        return self._summary(rows) | ({"missing": float(len(missing))} if missing else {})

    def _check(self, reference: Reference, place: int) -> None:
        if not isinstance(reference.get("id"), str):
            raise ValueError(f"{self.name}: item {place} has the id {reference.get('id')!r}, expected text")
        for field, kind in self.needs:
            value = reference.get(field)
            if value is None:
                raise ValueError(f"{self.name}: item {reference['id']!r} has no {field}, which its score needs")
            if not isinstance(value, kind):
                expected = f"expected {'text' if kind is str else kind.__name__}"
                raise ValueError(f"{self.name}: item {reference['id']!r} has the {field} {value!r}, {expected}")

    @property
    def percent(self) -> float:
        """LLaVA's tables are in percent, lmms-eval's accuracies in 0 to 1."""
        return 100.0 if self.protocol == "llava" else 1.0


def mean(values: Iterable[float]) -> float:
    """Mean of at least one value, independent of their order."""
    values = list(values)
    return math.fsum(values) / len(values)


def grouped(rows: Iterable[Row], key: Callable[[Row], Hashable | None]) -> dict[Any, list[Row]]:
    """Rows by key, sorted by the key's text; those whose key is None are left out."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        if (value := key(row)) is not None:
            groups.setdefault(value, []).append(row)
    return dict(sorted(groups.items(), key=lambda group: str(group[0])))
