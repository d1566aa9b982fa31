"""What is in the question sets: rows and why some cannot be used, sizes in tokens, images, samples."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from yopo_train.data.checks import BadRow, Findings
from yopo_train.data.collate import IGNORE, TrainCollator
from yopo_train.data.lengths import Lengths, measure_lengths
from yopo_train.data.module import VQADataModule
from yopo_train.data.rows import Rows
from yopo_train.errors import UserError

SPLITS = ("train", "calibration", "validation", "test")
EXAMPLES = 5
"""Bad rows of a set that are named."""
BINS = 10


def gather(
    data: VQADataModule, needed: Sequence[str], decode: int, samples: int
) -> tuple[dict[str, Any], tuple[Rows, Lengths] | None]:
    """Look at every split that there is: what was found, JSON-able; and the rows that training would visit, if any.

    Parameters
    ----------
    needed
        Splits that the run will read: one that is missing is a problem.
    decode
        Rows of a split whose images are decoded whole; 0 is all of them. Of the others the headers are read.
    samples
        Training rows that are shown as the model sees them.
    """
    found: dict[str, Any] = {"splits": {}, "problems": []}
    used: dict[str, tuple[Rows, Lengths]] = {}
    for split in SPLITS:
        try:
            rows, findings = data.open_split(split)
        except UserError as error:
            if split in needed:
                found["problems"].append(f"{split}: {error}")
            continue
        found["splits"][split], used[split] = _split(data, split, rows, findings, decode)
    rows, lengths = used.get("train", (None, None))
    if not rows:
        return found, None
    found["samples"] = _samples(TrainCollator(data.processor), rows, samples)
    return found, (rows, lengths)


def bad_rows(found: dict[str, Any], splits: Sequence[str]) -> int:
    """How many rows of these splits cannot be used, however `data.strict` is set."""
    return sum(found["splits"][split]["rows"]["bad"] for split in splits if split in found["splits"])


def spread(size: int, count: int) -> list[int]:
    """At most ``count`` of the numbers below ``size``, evenly spread."""
    return np.unique(np.linspace(0, size - 1, min(size, count)).round().astype(int)).tolist() if size else []


def _split(
    data: VQADataModule, split: str, rows: Rows, findings: list[Findings], decode: int
) -> tuple[dict[str, Any], tuple[Rows, Lengths]]:
    rows = rows.sample(data.limits[split], data.seed)
    lengths = measure_lengths(rows, data.processor, data.num_workers)
    kept = np.flatnonzero(lengths.tokens >= 0)
    longest = data.max_length if split == "train" else None
    too_long = np.zeros(0, int) if longest is None else kept[lengths.tokens[kept] > longest]
    broken = decode_some(rows.select(kept), decode)
    bad = Findings(rows.source, len(rows), 0, [*lengths.bad, *broken["bad"]])
    used = np.setdiff1d(kept, too_long)
    report = {
        "sets": [_set(found) for found in findings],
        "rows": {
            "found": sum(found.size for found in findings),
            "bad": sum(len(found.bad) for found in findings) + len(bad.bad),
            "looked_at": len(rows),
            "longer_than_max_length": len(too_long),
            "used": len(used),
        },
        "images": {
            "named": sum(found.images for found in findings),
            "decoded": broken["images"],
            "decoded_rows": broken["rows"],
            "faults": bad.counts(),
            "examples": [row.message for row in bad.bad[:EXAMPLES]],
        },
        "tokens": histogram(lengths.tokens[kept]),
        "visual_tokens": histogram(lengths.visual[kept]),
    }
    return report, (rows.select(used), lengths.select(used))


def _set(findings: Findings) -> dict[str, Any]:
    return {
        "source": findings.name,
        "rows": findings.size,
        "bad": findings.counts(),
        "examples": [row.message for row in findings.bad[:EXAMPLES]],
    }


def decode_some(rows: Rows, number: int) -> dict[str, Any]:
    """Decode the images of so many rows, evenly spread; of all for 0."""
    chosen, images, bad = spread(len(rows), number or len(rows)), 0, []
    for index in chosen:
        try:
            images += len(rows[index]["images"])
        except UserError as error:
            bad.append(BadRow(index, "image cannot be decoded", str(error)))
    return {"rows": len(chosen), "images": images, "bad": bad}


def histogram(values: np.ndarray) -> dict[str, Any]:
    """Smallest, mean, largest, and how many lie in each of `BINS` ranges of integers."""
    if not len(values):
        return {"edges": [], "counts": []}
    low, high = int(values.min()), int(values.max())
    step = max(1, -(-(high - low + 1) // BINS))
    edges = np.arange(low, high + step + 1, step)
    counts = np.histogram(values, edges)[0]
    summary = {"min": low, "mean": float(values.mean()), "median": float(np.median(values)), "max": high}
    return summary | {"sum": int(values.sum(dtype=np.int64)), "edges": edges.tolist(), "counts": counts.tolist()}


def batch_tokens(lengths: Lengths, order: np.ndarray, batch_size: int) -> dict[str, Any]:
    """Sizes of the batches of an epoch: the largest one's tokens, and what share of all is padding.

    Parameters
    ----------
    order
        Rows in the order of the epoch, of one process.
    """
    tokens, visual = lengths.tokens[order].astype(np.int64), lengths.visual[order].astype(np.int64)
    starts = np.arange(0, len(order), batch_size)
    sums, widest = np.add.reduceat(tokens, starts), np.maximum.reduceat(tokens, starts)
    rows = np.diff(np.append(starts, len(order)))
    multiple = TrainCollator.pad_to_multiple_of or 1
    padded = rows * -(-widest // multiple) * multiple
    largest = int(sums.argmax())
    return {
        "largest_batch": {
            "tokens": int(sums[largest]),
            "visual_tokens": int(np.add.reduceat(visual, starts)[largest]),
            "padded": int(padded.max()),
        },
        "padding": float(1 - sums.sum() / padded.sum()),
        "tokens": int(sums.sum()),
        "visual_tokens": int(visual.sum()),
    }


def _samples(collate: TrainCollator, rows: Rows, number: int) -> list[dict[str, Any]]:
    shown = []
    for index in spread(len(rows), number):
        try:
            shown.append(_sample(collate, rows[index]))
        except UserError:  # an image that cannot be decoded is counted elsewhere
            continue
    return shown


def _sample(collate: TrainCollator, row: dict[str, Any]) -> dict[str, Any]:
    """A row as the model sees it: stretches of text, each trained or not, and runs of image tokens counted."""
    batch, processor = collate([row]), collate.processor
    length = int(batch["attention_mask"][0].sum())
    ids, labels = batch["input_ids"][0, :length].tolist(), batch["labels"][0, :length].tolist()
    runs: list[dict[str, Any]] = []
    for token, label in zip(ids, labels, strict=True):
        kind = "image" if token == processor.image_token_id else "trained" if label != IGNORE else "prompt"
        if not runs or runs[-1]["kind"] != kind:
            runs.append({"kind": kind, "ids": []})
        runs[-1]["ids"].append(token)
    for run in runs:
        ids = run.pop("ids")
        run["tokens"] = len(ids)
        if run["kind"] != "image":
            run["text"] = processor.tokenizer.decode(ids, skip_special_tokens=False)
    return {"id": row["id"], "kind": row["kind"], "tokens": length, "runs": runs}
