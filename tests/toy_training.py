"""Batches with labels, for whatever trains."""

import torch
from toy import toy_batch

from yopo_train.pruning.inputs import IGNORE


def labelled_batch(samples=((3, "image", 6), (2, "image", 4)), labels=(3, 3), seed: int = 0) -> dict:
    """Right-padded samples with labels on the last tokens of each, so many."""
    batch = toy_batch([list(sample) for sample in samples], padding="right", seed=seed)
    marks = torch.full_like(batch["input_ids"], IGNORE)
    for row, (length, count) in enumerate(zip(batch["attention_mask"].sum(dim=1).tolist(), labels, strict=True)):
        marks[row, length - count : length] = batch["input_ids"][row, length - count : length]
    return batch | {"labels": marks, "meta": [{} for _ in samples]}
