"""The data module: one question set, five loaders."""

from __future__ import annotations

import os
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader, Sampler

from ..errors import UserError
from .collate import Collator, EvalCollator, TokenCounter, TrainCollator
from .rows import Rows, has_split, load_rows
from .sampler import EvalSampler, TrainSampler, rank_and_world

SPLITS_OF_STAGE = {
    "fit": ("train", "validation"),
    "validate": ("validation",),
    "test": ("test",),
    "predict": ("test",),
}


class VQADataModule(L.LightningDataModule):
    """Questions about images, from a folder or the Hub. See the README for the format of a row.

    Set :attr:`processor` before the first loader is asked for. Build the Trainer with
    ``use_distributed_sampler=False``: the samplers here know about ranks, and Lightning's would count rows twice.

    Parameters
    ----------
    path
        Folder with files ``<split>-*.parquet`` (train, calibration, validation, test), or a Hub dataset id.
    batch_size
        Training rows per step and device.
    eval_batch_size
        Rows generated together in validation, test and calibration, per device.
    calibration_samples
        How many rows calibration looks at, from the split calibration, or from train without one.
    num_workers
        Processes that read images and tokenise; 0 does it in the main process.
    max_length
        Training rows of more tokens, visual tokens included, are dropped; none is ever cut.
    train_limit
        Train on at most this many rows, drawn by the seed.
    validation_limit
        Validate on at most this many rows, drawn by the seed.
    test_limit
        Test on at most this many rows, drawn by the seed.
    seed
        Decides the order of training rows, and which rows a limit keeps.

    Raises
    ------
    UserError
        A number out of range; and from `setup` and the loaders, whatever is wrong with the data.
    """

    def __init__(
        self,
        path: str,
        batch_size: int = 8,
        eval_batch_size: int = 16,
        calibration_samples: int = 64,
        num_workers: int = 0,
        max_length: int | None = None,
        train_limit: int | None = None,
        validation_limit: int | None = None,
        test_limit: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.path, self.num_workers, self.max_length, self.seed = path, num_workers, max_length, seed
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.limits = {
            "train": train_limit,
            "calibration": calibration_samples,
            "validation": validation_limit,
            "test": test_limit,
        }
        self.processor: Any = None
        self._resumed = {"epoch": 0, "batches": 0}
        self._rows: dict[str, Rows] = {}
        self._check_arguments()

    def setup(self, stage: str) -> None:
        """Read and check the splits of a stage, so that bad rows stop a run before it begins."""
        for split in SPLITS_OF_STAGE[stage]:
            self.rows(split)

    def rows(self, split: str) -> Rows:
        """The checked rows of a split, after its limit, before `max_length`."""
        if split not in self._rows:
            found = split
            if split == "calibration" and not has_split(self.path, split):
                found = "train"
            self._rows[split] = load_rows(self.path, found).sample(self.limits[split], self.seed)
        return self._rows[split]

    def train_dataloader(self) -> DataLoader:
        """Shuffled conversations with labels."""
        rows = self._short_enough(self.rows("train"))
        sampler = TrainSampler(len(rows), self.seed, self._resumed["epoch"], self._resumed["batches"] * self.batch_size)
        return self._loader(rows, TrainCollator(self._processor()), self.batch_size, sampler)

    def val_dataloader(self) -> DataLoader:
        """Prompts of the split validation."""
        return self._eval_loader("validation")

    def test_dataloader(self) -> DataLoader:
        """Prompts of the split test."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader:
        """Prompts of the split test."""
        return self._eval_loader("test")

    def calibration_dataloader(self) -> DataLoader:
        """Prompts that calibration looks at."""
        return self._eval_loader("calibration")

    # -- in Lightning's checkpoints, which keep its own counters but begin each loader anew ----------------------------
    def state_dict(self) -> dict[str, int]:
        """Where Lightning will go on: ``epoch``, and ``batches`` of it that are processed (more may have been read)."""
        loop = self.trainer.fit_loop
        epochs, batches = loop.epoch_progress.current, loop.epoch_loop.batch_progress.current.processed
        within = epochs.processed < epochs.started  # not so in an epoch whose training was resumed at its very start
        counted = within or self.trainer.max_steps != -1  # else Lightning begins that epoch again
        if counted and batches < loop.max_batches:
            return {"epoch": epochs.processed, "batches": batches}
        return {"epoch": epochs.processed + within, "batches": 0}  # counted whole until the next epoch begins

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Have the next training loader go on from there."""
        self._resumed = dict(state_dict)

    def _eval_loader(self, split: str) -> DataLoader:
        rows = self.rows(split)
        return self._loader(rows, EvalCollator(self._processor()), self.eval_batch_size, EvalSampler(len(rows)))

    def _loader(self, rows: Rows, collate: Collator, batch_size: int, sampler: Sampler) -> DataLoader:
        world = rank_and_world()[1]
        if len(rows) < world:  # the other processes would wait forever for one that has nothing to do
            raise UserError(f"{rows.source}: {len(rows)} rows, expected at least one for each of {world} processes")
        if self.num_workers:
            # The tokenizer's threads do not survive the fork of worker processes, and warn about it once a worker.
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        return DataLoader(
            rows,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def _short_enough(self, rows: Rows) -> Rows:
        """Training rows of at most `max_length` tokens."""
        if self.max_length is None:
            return rows
        counter = TokenCounter(self._processor())
        kept = [i for i, row in enumerate(rows.messages_and_sizes()) if counter.count(*row) <= self.max_length]
        dropped = len(rows) - len(kept)
        rank_zero_info(f"{rows.source}: dropped {dropped} of {len(rows)} rows longer than {self.max_length} tokens")
        if not kept:
            raise UserError(f"{rows.source}: every row is longer than data.max_length={self.max_length} tokens")
        return rows.select(kept)

    def _processor(self) -> Any:
        if self.processor is None:
            raise RuntimeError("set the data module's `processor` before asking for a loader")
        return self.processor

    def _check_arguments(self) -> None:
        numbers = {
            "batch_size": self.batch_size,
            "eval_batch_size": self.eval_batch_size,
            "calibration_samples": self.limits["calibration"],
            "max_length": self.max_length,
            **{f"{split}_limit": self.limits[split] for split in ("train", "validation", "test")},
        }
        for name, number in numbers.items():
            if number is not None and number < 1:
                raise UserError(f"data.{name} is {number}, expected at least 1")
        if self.num_workers < 0:
            raise UserError(f"data.num_workers is {self.num_workers}, expected 0 or more")
