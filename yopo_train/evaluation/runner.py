"""A model's answers to a benchmark, and their score: on one process or many, and from where a killed run stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from ..data.collate import Batch
from ..errors import UserError
from ..models.offload import entry_device, moved
from ..progress import Bar
from ..ranks import of_all_ranks, of_first_rank, rank_and_world
from .benchmarks import get_benchmark
from .generation import generate_answers
from .identity import identity_of
from .loading import loaded
from .metrics import headline, make_metric
from .predictions import Line, PredictionsFile
from .prompts import ItemCollator, prompt_lengths, prompts_digest
from .results import Result

GREEDY = {"do_sample": False, "num_beams": 1, "padding": "left"}


def evaluate(
    model: nn.Module,
    processor: Any,
    benchmark: Any,
    items: Sequence[Any],
    *,
    protocol: str = "llava",
    batch_size: int = 16,
    file: str | Path | None = None,
    max_new_tokens: int | None = None,
    num_workers: int = 0,
    use_cache: bool = True,
    progress: str | None = None,
) -> Result:
    """Ask a model all items of a benchmark and score its answers.

    Batches hold prompts of about the same length and do not depend on the number of processes, so that the answers do
    not either. Under ``torch.distributed`` the ranks take turns in the batches; every rank gets the whole result.

    Parameters
    ----------
    model : PreTrainedModel or PeftModel
        Pruned or not, on its device; in evaluation mode.
    processor : ProcessorMixin
        The model's.
    benchmark : Benchmark or str
        Whose prompts and rules: ``pope``, …
    items : sequence of Item
        What `Benchmark.items` gives, for the same protocol.
    protocol : str
        ``llava`` or ``lmms_eval``.
    batch_size : int
        Prompts at once, on each process.
    file : str or Path, optional
        Where predictions go as they come, seen by all ranks. What such a file holds already for this model and these
        prompts is not asked again; see `PredictionsFile`.
    max_new_tokens : int, optional
        Longest answer; the protocol's unless given.
    num_workers : int
        Processes that read and tokenise images; 0 does it in a thread.
    use_cache : bool
        Keep keys and values from token to token; the reference backend of `prune` cannot.
    progress : str, optional
        Show a bar of this name.

    Raises
    ------
    UserError
        No items, an item that cannot be read or scored, or a damaged predictions file.
    """
    started = time.perf_counter()
    benchmark = get_benchmark(benchmark) if isinstance(benchmark, str) else benchmark
    if not items:
        raise UserError(f"{benchmark.name}: no items to ask")
    settings = benchmark.settings(protocol)
    longest = settings.max_new_tokens if max_new_tokens is None else max_new_tokens
    scorer = _scorer(benchmark, protocol, items)
    collate = ItemCollator(processor, settings.system, settings.letterbox)
    texts = [collate.text(item) for item in items]
    batches = _batches(prompt_lengths(items, texts, processor), batch_size)
    identity = identity_of(model, processor) | {
        "benchmark": benchmark.name,
        "protocol": protocol,
        "prompts": prompts_digest(items, texts),
        "letterbox": collate.border is not None,
        "max_new_tokens": longest,
    }

    def lines_of(asked: Sequence[Any], batch: Batch) -> list[Line]:
        inputs = moved({name: value for name, value in batch.items() if name != "meta"}, entry_device(model))
        answers = generate_answers(model, processor, inputs, longest, use_cache=use_cache)
        return [_line(item, answer, scorer) for item, answer in zip(asked, answers, strict=True)]

    written = PredictionsFile(file, identity, rank_and_world()[0]) if file is not None else None
    lines, resumed = _ask(
        items, batches, lambda mine: loaded(items, mine, collate, num_workers), lines_of, written, progress
    )
    return Result(
        benchmark=benchmark.name,
        protocol=protocol,
        headline=headline(benchmark.name, protocol) if scorer is not None else None,
        scores=_scores(scorer, lines, items),
        items=len(items),
        resumed=resumed,
        seconds=time.perf_counter() - started,
        generation=GREEDY
        | {"max_new_tokens": longest, "batch_size": batch_size}
        | {"system": collate.system, "letterbox": identity["letterbox"]},
        plan=identity["plan"],
        predictions={name: line["prediction"] for name, line in lines.items()},
    )


def _ask(
    items: Sequence[Any],
    batches: Sequence[Sequence[int]],
    load: Callable[[Sequence[Sequence[int]]], Iterator[Batch]],
    lines_of: Callable[[Sequence[Any], Batch], list[Line]],
    written: PredictionsFile | None,
    progress: str | None,
) -> tuple[dict[str, Line], int]:
    """The lines of all items in their order, by id, and how many of them were there before; the same on all ranks."""
    rank, world = rank_and_world()
    before = _from_first_rank(written.begin if written is not None else dict)
    todo = [batch for batch in batches if any(items[index].id not in before for index in batch)]
    mine, found, problem = todo[rank::world], dict[str, Line](), None
    with _bar(progress, len(items), len(before)) as advance_to:
        try:
            for indices, batch in zip(mine, load(mine), strict=True):
                lines = lines_of([items[index] for index in indices], batch)
                # a batch that a kill cut in two was asked again as a whole, so that its answers stay the same
                lines = [line for line in lines if line["id"] not in before]
                found |= {line["id"]: line for line in lines}
                if written is not None:
                    written.append(lines)
                advance_to(min(len(items), len(before) + world * len(found)))
        except UserError as error:
            problem = error  # the others answer their share, and are told where all ranks meet

    answered = before | _of_all_ranks(found, problem)
    answered = {item.id: answered[item.id] for item in items}
    if written is not None:
        written.close()
        _from_first_rank(lambda: written.finish(answered.values()))
    return answered, len(before)


def _line(item: Any, prediction: str, scorer: Any) -> Line:
    line = {"id": item.id, "prediction": prediction, "prompt": item.prompt, "reference": dict(item.reference)}
    return line | (dict(scorer.judge(prediction, item.reference)) if scorer is not None else {})


@contextmanager
def _bar(name: str | None, total: int, done: int) -> Iterator[Callable[[int], None]]:
    """A function that is told how many items are answered, and shows it; only the first rank does."""
    if name is None or rank_and_world()[0] != 0:
        yield lambda done: None
        return
    with Bar(name, "items", total, done) as bar:
        yield bar.advance_to


def _batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Numbers of the items of each batch, the longest prompts first: what does not fit into memory shows at once."""
    if batch_size < 1:
        raise UserError(f"evaluation.batch_size is {batch_size}, expected at least 1")
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def _scorer(benchmark: Any, protocol: str, items: Sequence[Any]) -> Any:
    """The metric, on this process alone; None where there are no public answers."""
    if not benchmark.has_answers(items):
        return None
    try:
        # every rank knows all predictions in the end, so nothing is to be summed
        return make_metric(benchmark.name, protocol, [item.reference for item in items], sync_on_compute=False)
    except ValueError as error:
        raise UserError(str(error)) from error


def _scores(scorer: Any, lines: dict[str, Line], items: Sequence[Any]) -> dict[str, float]:
    if scorer is None:
        return {}
    scorer.update([lines[item.id]["prediction"] for item in items], [item.reference for item in items])
    try:
        return dict(scorer.compute())
    except ValueError as error:
        raise UserError(str(error)) from error


def _from_first_rank(work: Callable[[], Any]) -> Any:
    """The result of work that only the first rank does; its errors, too, reach all of them."""
    outcome: tuple[Any, UserError | None] = (None, None)
    if rank_and_world()[0] == 0:
        try:
            outcome = work(), None
        except UserError as error:
            outcome = None, error
    result, problem = of_first_rank(outcome)
    if problem is not None:
        raise problem
    return result


def _of_all_ranks(found: dict[str, Line], problem: UserError | None) -> dict[str, Line]:
    """What all ranks have found; a problem that one of them had is raised on all."""
    parts = of_all_ranks((found, problem))
    for _, problem in parts:
        if problem is not None:
            raise problem
    return {name: line for part, _ in parts for name, line in part.items()}
