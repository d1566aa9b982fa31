"""What a run has written."""

import csv
from pathlib import Path

import torch

from yopo_train.run_folder import RunFolder


def losses(folder: Path) -> list[str]:
    """Of all steps, as texts."""
    with (folder / "logs" / "metrics.csv").open() as file:
        return [row["train/loss"] for row in csv.DictReader(file) if row["train/loss"]]


def adapter(folder: Path) -> bytes:
    """The adapter's weights."""
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def step_of(folder: Path) -> int:
    """The step that ``last.ckpt`` describes."""
    return torch.load(RunFolder(folder).last_checkpoint, weights_only=True)["global_step"]
