"""``yopo-train score``: the numbers of a predictions file, without a model."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from .benchmarks import get_benchmark
from .metrics import headline, make_metric
from .rescore_file import Answer, read_answers
from .rescore_join import find_ids, references_of

DICTIONARY = ("gqa", "vqav2", "scienceqa", "mmbench")
"""Where LLaVA's scripts keep answers in a dictionary by question: of two the last counts, others are not looked at."""


def rescore(
    benchmark: str,
    predictions: str | Path,
    protocol: str = "llava",
    data: str | Path | None = None,
    split: str | None = None,
    reasoning_tags: bool = False,
) -> dict[str, Any]:
    """Score a predictions file.

    Parameters
    ----------
    benchmark : str
        Name of the benchmark.
    predictions : str or Path
        Our ``predictions/<benchmark>.jsonl``, answers of LLaVA's scripts, samples of lmms-eval (JSON lines), or an
        array of objects with an id and an answer.
    protocol : {"llava", "lmms_eval"}
        Whose scorer.
    data : str or Path, optional
        The benchmark's questions: folder, official files or hub id. Not needed where the file holds references.
    split : str, optional
        Split of `data`; the benchmark's usual one by default.
    reasoning_tags : bool
        As lmms-eval's command line, see `ItemMetric`.

    Returns
    -------
    dict
        benchmark, protocol, predictions (file), items, headline (a key of scores), scores, and notes: what was
        tolerated because the reference tolerates it.

    Raises
    ------
    UserError
        A row cannot be read, belongs to no question or to one that was answered before, or a question has no answer,
        where the reference does not tolerate it.
    """
    _check_benchmark(benchmark, Path(predictions))
    tolerant = protocol == "llava" and benchmark in DICTIONARY
    answers, broken = read_answers(predictions, skip_broken=tolerant and benchmark == "vqav2")
    notes = [f"{len(broken)} broken lines were left out, the first is {broken[0]}"] if broken else []
    if data is None:
        references, ids = references_of(benchmark, answers, protocol)
    else:
        # TextVQA's prompt of llava needs OCR tokens that nobody needs to score
        items = get_benchmark(benchmark).items(
            data, "lmms_eval" if benchmark == "textvqa" else protocol, split, images=False
        )
        references, ids = [item.reference for item in items], find_ids(benchmark, answers, items)
    chosen = _one_for_each(answers, ids, tolerant, notes)
    if answers[0].doc_id is not None and len(chosen) < len(references):
        notes.append(f"the file has {len(chosen)} of {len(references)} questions, as with --limit of lmms-eval")
        references = [reference for reference in references if reference["id"] in chosen]
    by_id = {reference["id"]: reference for reference in references}
    try:
        metric = make_metric(benchmark, protocol, references, reasoning_tags)
        metric.update([answer.text for answer in chosen.values()], [by_id[key] for key in chosen])
        scores = metric.compute()
    except ValueError as error:
        raise UserError(f"{predictions}: {error}") from error
    return {
        "benchmark": benchmark,
        "protocol": protocol,
        "predictions": str(predictions),
        "items": len(references),
        "headline": headline(benchmark, protocol),
        "scores": scores,
        "notes": notes,
    }


def _check_benchmark(benchmark: str, predictions: Path) -> None:
    """Beside our own files stands whose they are: POPE's answers could be scored by GQA's rules."""
    about = predictions.with_suffix(".json")
    try:
        found = json.loads(about.read_text("utf-8"))["benchmark"]
    except (OSError, ValueError, LookupError, TypeError):
        return  # somebody else's, or an array of answers
    if found != benchmark:
        raise UserError(f"{predictions}: holds answers to {found} (see {about.name}), expected {benchmark}")


def _one_for_each(
    answers: Sequence[Answer], ids: Sequence[str | None], tolerant: bool, notes: list[str]
) -> dict[str, Answer]:
    """Question -> its answer."""
    chosen: dict[str, Answer] = {}
    strangers, repeated = [], []
    for answer, key in zip(answers, ids, strict=True):
        if key is None:
            strangers.append(answer)
        elif key in chosen:
            repeated.append(answer)
            if not tolerant:
                raise UserError(f"{answer.where}: question {key!r} was answered before ({chosen[key].where})")
        if key is not None:
            chosen[key] = answer
    if strangers and not (tolerant and chosen):
        first = strangers[0]
        name = f"doc_id {first.doc_id}" if first.key is None else f"id {first.key!r}"
        many = f" ({len(strangers)} such rows)" if len(strangers) > 1 else ""
        raise UserError(f"{first.where}: {name} belongs to no question of the data{many}")
    for rows, what in ((strangers, "belong to no question and were left out"), (repeated, "replaced earlier answers")):
        if rows:
            notes.append(f"{len(rows)} rows {what}, as in LLaVA's script; the first is {rows[0].where}")
    return chosen


def show_scores(result: dict[str, Any], console: Any = None) -> None:
    """Print a result of :func:`rescore` as a table, the headline first; notes go to the standard error.

    Parameters
    ----------
    console : rich.console.Console, optional
        Where to; by default the terminal.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = console or Console(highlight=False)
    title = f"{result['benchmark']}, protocol {result['protocol']}, {result['items']} questions"
    table = Table("metric", title=title, title_justify="left")
    table.add_column("value", justify="right")
    scores = dict(result["scores"])
    if result["headline"] in scores:
        table.add_row(result["headline"], f"{scores.pop(result['headline']):.4f}", style="bold")
    for name, value in scores.items():
        table.add_row(escape(name), f"{value:.4f}")
    console.print(table)
    for note in result["notes"]:
        print(f"note: {note}", file=sys.stderr)
