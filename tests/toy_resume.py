"""A training of a second: the toy model, the real data module's place in the data, the real trainer."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader
from toy import random_plan, toy_batch, toy_dims, toy_llava

from yopo_train.data.module import VQADataModule
from yopo_train.data.sampler import TrainSampler
from yopo_train.pipeline import TrainerFactory
from yopo_train.pipeline.checkpoints import CheckpointOptions, checkpoint_to_continue
from yopo_train.pipeline.watch import WatchOptions
from yopo_train.recovery import LoraOptions, OptimizerOptions, YopoModule
from yopo_train.run_folder import RunFolder

ROWS = 10


def toy_rows(numbers: list[int]) -> dict[str, Any]:
    """A batch whose images follow from its rows; the last three tokens of each have labels."""
    batch = toy_batch([[2, "image", 5]] * len(numbers), seed=numbers[0])
    labels = torch.full_like(batch["input_ids"], -100)
    labels[:, -3:] = batch["input_ids"][:, -3:]
    return batch | {"labels": labels, "meta": [{"id": f"row-{number}"} for number in numbers]}


class ToyData(VQADataModule):
    """Ten rows for training, two batches for validation."""

    def setup(self, stage: str) -> None:
        """Nothing is read."""

    def train_dataloader(self) -> DataLoader:
        sampler = TrainSampler(ROWS, 0, self._resumed["epoch"], self._resumed["batches"] * self.batch_size)
        rows = list(range(ROWS))
        return DataLoader(rows, self.batch_size, sampler=sampler, collate_fn=toy_rows, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader:
        return DataLoader([0, 1], 1, collate_fn=toy_rows)


class ToyScore(Callback):
    """Logs ``val/score`` at the end of each validation, and draws random numbers like somebody who evaluates."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: YopoModule) -> None:
        torch.rand(3)
        weights = [weight.detach().abs().sum() for weight in pl_module.trainable().values()]
        pl_module.log("val/score", torch.stack(weights).sum())


def toy_module(
    plan_seed: int = 0,
    tuning: str = "lora",
    loss: str = "ce",
    quantization: str | None = None,
    optimizer: str = "adamw",
    lr: float = 1e-2,
    schedule_steps: int | None = None,
    **lora: Any,
) -> YopoModule:
    """A pruned toy model with an adapter that has dropout."""
    options = OptimizerOptions(name=optimizer, lr=lr, warmup_ratio=0.0, schedule_steps=schedule_steps)
    lora_options = LoraOptions(**{"r": 2, "lora_dropout": 0.2} | lora)
    module = YopoModule(
        "org/base", tuning=tuning, lora=lora_options, optimizer=options, loss=loss, quantization=quantization, plan="p"
    )
    module.model = toy_llava(layers=2)
    module.prune_with(random_plan(toy_dims(module.model), depth=2, radius=1, seed=plan_seed))
    torch.manual_seed(0)
    module.start_tuning()
    return module


def train(
    folder: Path,
    *callbacks: Callback,
    module: YopoModule | None = None,
    ckpt_path: str = "last",
    every: int = 100,
    minutes: float | None = None,
    watch: WatchOptions = WatchOptions(),
    workers: int = 0,
    batch_size: int = 2,
    **settings: Any,
) -> YopoModule:
    """Train in this run folder, from its last checkpoint unless told otherwise; 8 steps, a validation after every 3."""
    run = RunFolder(folder)
    settings = {
        "max_steps": 8,
        "accelerator": "cpu",
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "num_sanity_val_steps": 0,
        "check_val_every_n_epoch": None,
        "val_check_interval": 3,
        "callbacks": [ToyScore(), *callbacks],
    } | settings
    factory = TrainerFactory(run, settings, CheckpointOptions(every, minutes), watch)
    module = toy_module() if module is None else module
    data = ToyData("toy", batch_size=batch_size, num_workers=workers)
    trainer = factory.for_training("train")
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint_to_continue(run, ckpt_path))
    return module


def logged(folder: Path, *names: str) -> list[tuple[str, ...]]:
    """Step and values of these columns, as texts, of the rows that have any of them."""
    with (folder / "logs" / "metrics.csv").open(newline="") as file:
        rows = [tuple(row.get(name) or "" for name in ("step", *names)) for row in csv.DictReader(file)]
    return [row for row in rows if any(row[1:])]


def course(folder: Path) -> list[tuple[str, ...]]:
    """All of the log that must not depend on interruptions."""
    return logged(folder, "epoch", "train/loss", "train/grad_norm", "train/lr", "val/score")


def weights(module: YopoModule) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in module.trainable().items()}


class At(Callback):
    """Does something once, in the middle of a training step, a validation or an update."""

    def __init__(self, hook: str, step: int, work: Callable[[], None]) -> None:
        self.step, self.work = step, work
        setattr(self, hook, self._act)

    def _act(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step == self.step and self.work is not None:
            work, self.work = self.work, None
            work()
