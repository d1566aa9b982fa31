"""The data module: question sets, five loaders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader

from ..errors import UserError
from .checks import Findings
from .collate import EvalCollator, TrainCollator
from .images import ImageSizing
from .lengths import Lengths, measure_lengths
from .lenient import Replaced, Replacing, decodable
from .loader import make_loader
from .mixture import TrainSource, joined
from .rows import Rows, open_rows
from .sampler import EvalSampler, TrainSampler
from .sources import has_split

SPLITS_OF_STAGE = {
    "fit": ("train", "validation"),
    "validate": ("validation",),
    "test": ("test",),
    "predict": ("test",),
}


class VQADataModule(L.LightningDataModule):
    """Questions about images, from files, folders or the Hub. See the README for the formats of a row.

    Set :attr:`processor` before the first loader is asked for. Build the Trainer with
    ``use_distributed_sampler=False``: the samplers here know about ranks, and Lightning's would count rows twice.

    Parameters
    ----------
    path
        A file .parquet, .json or .jsonl, a folder with files <split>-*.parquet or <split>.jsonl (train, calibration,
        validation, test), a folder written by datasets' save_to_disk, or a Hub dataset id.
    image_root
        What image paths in it are relative to; the folder of the set unless given.
    subset
        Configuration of a Hub set that has several.
    train
        Question sets to train on, each with path, split, weight, image_root and subset; null is the split train of
        path. A weight says how often each row is visited in an epoch.
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
    max_pixels
        Images of more pixels are made smaller before the model's processor sees them, in every split.
    letterbox
        A border makes images square, in every split: so LLaVA-1.5 was trained, whose processor crops them.
    group_by_length
        Training rows of about the same number of tokens share a batch, so that little is padding.
    strict
        true: the first bad row (no answer, missing or broken image, ...) stops the run. false: bad rows are skipped and
        counted, and a training row whose image proves broken when it is decoded is replaced by the next one.
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
        image_root: str | None = None,
        subset: str | None = None,
        train: list[TrainSource] | None = None,
        batch_size: int = 8,
        eval_batch_size: int = 16,
        calibration_samples: int = 64,
        num_workers: int = 0,
        max_length: int | None = None,
        max_pixels: int | None = None,
        letterbox: bool = False,
        group_by_length: bool = False,
        strict: bool = True,
        train_limit: int | None = None,
        validation_limit: int | None = None,
        test_limit: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.path, self.image_root, self.subset, self.train = path, image_root, subset, train
        self.num_workers, self.max_length, self.group_by_length = num_workers, max_length, group_by_length
        self.strict, self.seed = strict, seed
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.limits = {
            "train": train_limit,
            "calibration": calibration_samples,
            "validation": validation_limit,
            "test": test_limit,
        }
        self.sizing = ImageSizing(max_pixels, letterbox)
        self._given: Any = None
        self._resumed = {"epoch": 0, "batches": 0}
        self.unanswered = False
        """Whether training rows may lack their last answer, because a teacher gives it: see `answer`."""
        self._rows: dict[str, Rows] = {}
        self._kept: tuple[Rows, Lengths | None] | None = None
        self._replaced = Replaced()
        self._check_arguments()

    @property
    def processor(self) -> Any:
        """The model's processor."""
        if self._given is None:
            raise RuntimeError("set the data module's `processor` before asking for a loader")
        return self._given

    @processor.setter
    def processor(self, processor: Any) -> None:
        self._given, self._kept = processor, None
        if processor is not None:
            self.sizing.fit_to(processor)

    def setup(self, stage: str) -> None:
        """Read and check the splits of a stage, so that bad rows stop a run before it begins."""
        unread = stage == "fit" and self.trainer is not None and self.trainer.limit_val_batches == 0
        for split in SPLITS_OF_STAGE[stage]:
            if not (unread and split == "validation"):
                self.rows(split)

    def rows(self, split: str) -> Rows:
        """The checked rows of a split, after its limit, before `max_length`."""
        if split not in self._rows:
            rows, findings = self.open_split(split)
            for found in findings:
                self._refuse_or_report(found)
            if not len(rows):
                raise UserError(f"{rows.source}: every row is bad; the first: {findings[0].bad[0].message}")
            rows = rows.sample(self.limits[split], self.seed)
            self._rows[split] = rows if self.strict or split == "train" else decodable(rows)
        return self._rows[split]

    def answer(self, answers: Mapping[int, str]) -> None:
        """Give training rows that lack their answers these, by the rows' numbers (`Rows.index`)."""
        self.rows("train").answers.update(answers)
        self._kept = None

    def open_split(self, split: str) -> tuple[Rows, list[Findings]]:
        """The good rows of a split, before its limit, and what was found in each of the sets that it comes from."""
        if split == "train" and self.train is not None:
            wanted = [(source.path, source.split, source.image_root, source.subset) for source in self.train]
        else:
            in_train = split == "calibration" and not has_split(self.path, split, self.subset)
            wanted = [(self.path, "train" if in_train else split, self.image_root, self.subset)]
        may_lack = self.unanswered and split == "train"
        opened = [open_rows(*each, sizing=self.sizing, unanswered=may_lack) for each in wanted]
        return joined([rows for rows, _ in opened]), [findings for _, findings in opened]

    def train_dataloader(self) -> DataLoader:
        """Shuffled conversations with labels."""
        rows, lengths = self.training_rows()
        sampler = self.train_sampler(rows, lengths)
        collate = TrainCollator(self.processor)
        if self.strict:
            return make_loader(rows, rows.source, collate, self.batch_size, sampler, self.num_workers)
        replacing = Replacing(rows, collate)
        return make_loader(replacing, rows.source, replacing.batch, self.batch_size, sampler, self.num_workers)

    def training_rows(self) -> tuple[Rows, Lengths | None]:
        """The rows of training, those longer than `max_length` dropped, and their lengths where anybody asks."""
        if self._kept is None:
            rows, lengths = self.rows("train"), None
            if self.max_length is not None or self.group_by_length:
                rows, lengths = self._short_enough(rows)
            self._kept = rows, lengths
        return self._kept

    def train_sampler(self, rows: Rows, lengths: Lengths | None) -> TrainSampler:
        """The order of training rows, from where an earlier process ended."""
        return TrainSampler(
            [len(numbers) for _, numbers in rows.by_part()],
            self.seed,
            self._resumed["epoch"],
            self._resumed["batches"] * self.batch_size,
            weights=[source.weight for source in self.train] if self.train is not None else None,
            lengths=lengths.tokens if self.group_by_length else None,
            batch_size=self.batch_size,
        )

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

    # -- rows that prove unusable in the middle of training --------------------------------------------------------
    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Count rows that were replaced."""
        self._replaced.note(batch)
        return batch

    def teardown(self, stage: str) -> None:
        """Say how many rows were replaced."""
        if (summary := self._replaced.summary()) is not None:
            rank_zero_warn(summary)
        self._replaced = Replaced()

    def _eval_loader(self, split: str) -> DataLoader:
        return self.prompt_dataloader(self.rows(split))

    def prompt_dataloader(self, rows: Rows) -> DataLoader:
        """Prompts of these rows, shared among the processes."""
        collate = EvalCollator(self.processor)
        sampler = EvalSampler(len(rows))
        return make_loader(rows, rows.source, collate, self.eval_batch_size, sampler, self.num_workers)

    def _short_enough(self, rows: Rows) -> tuple[Rows, Lengths]:
        """Training rows of at most `max_length` tokens, and their lengths."""
        lengths = measure_lengths(rows, self.processor, self.num_workers)
        self._refuse_or_report(Findings(rows.source, len(rows), 0, lengths.bad))
        longest = self.max_length or np.iinfo(np.int32).max
        kept = np.flatnonzero((lengths.tokens >= 0) & (lengths.tokens <= longest))
        if self.max_length is not None:
            dropped = int((lengths.tokens > longest).sum())
            rank_zero_info(f"{rows.source}: dropped {dropped} of {len(rows)} rows longer than {longest} tokens")
        if not len(kept):
            raise UserError(f"{rows.source}: every row is longer than data.max_length={self.max_length} tokens")
        return rows.select(kept), lengths.select(kept)

    def _refuse_or_report(self, found: Findings) -> None:
        if self.strict:
            found.refuse()
        elif found.bad:
            rank_zero_warn(found.summary())

    def _check_arguments(self) -> None:
        numbers = {
            "batch_size": self.batch_size,
            "eval_batch_size": self.eval_batch_size,
            "calibration_samples": self.limits["calibration"],
            "max_length": self.max_length,
            "max_pixels": self.sizing.max_pixels,
            **{f"{split}_limit": self.limits[split] for split in ("train", "validation", "test")},
        }
        for name, number in numbers.items():
            if number is not None and number < 1:
                raise UserError(f"data.{name} is {number}, expected at least 1")
        if self.num_workers < 0:
            raise UserError(f"data.num_workers is {self.num_workers}, expected 0 or more")
        if self.train == []:
            raise UserError("data.train is an empty list, expected question sets, or null")
