"""How many tokens each row has, visual tokens included: measured once, without decoding an image, and kept."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import transformers
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ..errors import UserError
from ..progress import Bar
from ..ranks import is_first_rank
from ..run_folder import new_file
from .cache import KEPT_FROM, kept_file, key_of
from .checks import BadRow
from .collate import TokenCounter
from .rows import Rows

SHOWN_FROM = 20_000
"""Rows from which on counting has a progress bar."""
CHUNK = 256
"""Rows that a worker measures at a time."""
UNREADABLE = "image is unreadable"
VERSION = 1


@dataclass
class Lengths:
    """The rows' sizes in tokens.

    Parameters
    ----------
    tokens, visual : (rows,) int32
        All tokens, and the visual ones among them; -1 where an image cannot be read.
    bad
        Those rows, by their place in `Rows`.
    """

    tokens: np.ndarray
    visual: np.ndarray
    bad: list[BadRow]

    def select(self, indices: np.ndarray) -> Lengths:
        """Those of some of the rows, all of them readable."""
        return Lengths(self.tokens[indices], self.visual[indices], [])


def measure_lengths(rows: Rows, processor: Any, workers: int = 0) -> Lengths:
    """Tokens of every row's whole conversation; kept for the next time where there are many.

    Parameters
    ----------
    workers
        Processes that count.
    """
    key = rows.key()
    if len(rows) < KEPT_FROM or key is None:
        return _measure(rows, processor, workers)
    name = key_of("lengths", VERSION, key, processor_key(processor), rows.sizing)
    with kept_file(f"{name}.lengths.npz") as path:
        if path.is_file():
            kept = np.load(path)
            bad = [BadRow(*row) for row in json.loads(str(kept["bad"]))]
            return Lengths(kept["tokens"], kept["visual"], bad)
        found = _measure(rows, processor, workers)
        bad = json.dumps([(row.number, row.fault, row.message) for row in found.bad])
        with new_file(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, tokens=found.tokens, visual=found.visual, bad=np.array(bad))
        return found


def processor_key(processor: Any) -> str:
    """Stands for everything of a processor that decides how many tokens a row has."""
    parts = {name: str(part) for name, part in vars(processor).items() if name not in ("tokenizer", "chat_template")}
    templates = processor.chat_template, processor.tokenizer.chat_template
    tokenizer = hashlib.sha256(processor.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
    return key_of(type(processor).__name__, transformers.__version__, tokenizer, templates, sorted(parts.items()))


class _Chunks(TorchDataset):
    """Lengths of some rows at a time, for worker processes."""

    def __init__(self, rows: Rows, processor: Any) -> None:
        self.rows, self.counter = rows, TokenCounter(processor)

    def __len__(self) -> int:
        return -(-len(self.rows) // CHUNK)

    def __getitem__(self, chunk: int) -> tuple[np.ndarray, list[tuple[int, str, str]]]:
        places = range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(self.rows)))
        found, readable, bad = np.full((len(places), 2), -1, np.int32), {}, []
        for place, raw in zip(places, self.rows.raws(places), strict=True):
            try:
                messages, sizes = self.rows.messages_and_sizes(place, raw)
                for size in sizes:
                    self.counter.tokens_of_image(size)
                readable[place] = messages, sizes
            except UserError as error:
                bad.append((place, UNREADABLE, str(error)))
        if readable:
            found[np.array(list(readable)) - places[0]] = self.counter.count(list(readable.values()))
        return found, bad


def _measure(rows: Rows, processor: Any, workers: int) -> Lengths:
    if workers:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive the fork of workers
    loader = DataLoader(_Chunks(rows, processor), batch_size=None, num_workers=workers, collate_fn=_as_is)
    counts, bad = [np.zeros((0, 2), np.int32)], []
    shown = len(rows) >= SHOWN_FROM and is_first_rank()
    with Bar("      counting tokens", "rows", len(rows)) if shown else nullcontext() as bar:
        for number, (found, unreadable) in enumerate(loader, start=1):
            counts.append(found)
            bad += [BadRow(*row) for row in unreadable]
            if bar is not None:
                bar.advance_to(min(number * CHUNK, len(rows)))
    tokens, visual = np.concatenate(counts).T.copy()
    return Lengths(tokens, visual, bad)


def _as_is(item: Any) -> Any:
    return item
