"""The table of benchmark scores: benchmarks as columns, models as rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .published import WHOLE, Published, published

TITLES = {
    "gqa": "GQA",
    "vqav2": "VQAv2",
    "scienceqa": "SQA",
    "textvqa": "TextVQA",
    "pope": "POPE",
    "mme": "MME",
    "mmbench": "MMB",
}
"""As `BENCHMARKS` has them, which would load torchmetrics, and matplotlib with it, to print a plan."""
STAGES = ("base", "pruned", "recovered", "trained")
NOTHING = "-"

Found = Mapping[str, Mapping[str, Any]]
"""Benchmark to what ``results.json`` says of it."""


def benchmark_cells(scores: Mapping[str, Found], budget: float | None = None) -> tuple[list[str], list[list[str]]]:
    """Headers and rows.

    Parameters
    ----------
    scores
        The section ``benchmarks`` of ``results.json``: by stage.
    budget
        Share of the visual FLOPs that the plan was made to keep. Where somebody has published scores of the same base
        model under the same budget, they are the row below ours, in the columns that can be compared.
    """
    names = [name for name in TITLES if any(name in found for found in scores.values())]
    rows = []
    for stage in (stage for stage in STAGES if scores.get(stage)):
        found = scores[stage]
        rows.append([stage, *(_cell(found[name]) if name in found else NOTHING for name in names)])
        for row in _comparable(stage, found, budget):
            same = {name: score for name, score in row.scores.items() if _is_whole(name, found)}
            rows.append([f"{stage}, published", *(f"{same[n]:.1f}" if n in same else NOTHING for n in names)])
    return ["", *(TITLES[name] for name in names)], rows


def benchmark_notes(scores: Mapping[str, Found], budget: float | None = None) -> list[str]:
    """What the numbers are, a line each."""
    results = {name: result for found in scores.values() for name, result in found.items()}
    protocols = sorted({result["protocol"] for found in scores.values() for result in found.values()})
    said = ", ".join(
        f"{TITLES[name]} {results[name]['headline'] or 'without public answers'} of {results[name]['items']} items"
        for name in TITLES
        if name in results
    )
    sources = {row.source for stage, found in scores.items() for row in _comparable(stage, found, budget)}
    return [
        f"- benchmarks, protocol {' and '.join(protocols)}: {said}",
        *(f"- published: {source}" for source in sorted(sources)),
    ]


def _comparable(stage: str, found: Found, budget: float | None) -> Iterator[Published]:
    """Published rows that have a number to compare with."""
    model = next((result["model"] for result in found.values()), None)
    for row in published(model, stage, budget):
        if any(_is_whole(name, found) for name in row.scores):
            yield row


def _cell(result: Mapping[str, Any]) -> str:
    """lmms-eval's shares with four decimals, percents and MME's sums with one."""
    score = result["score"]
    if score is None:
        return NOTHING
    return f"{score:.4f}" if result["protocol"] == "lmms_eval" and score <= 1 else f"{score:.1f}"


def _is_whole(name: str, found: Found) -> bool:
    """Whether a score is of all items of the usual split, by the rules of LLaVA's tables."""
    result = found.get(name)
    if result is None or result["score"] is None or result["protocol"] != "llava" or name not in WHOLE:
        return False
    whole = result["items"] >= WHOLE[name]
    return whole and all(result["asked"][key] is None for key in ("limit", "split", "max_new_tokens"))
