"""Training runs of a toy on one rank, or on several: ``python train_toy.py OUT RANKS [NAME ...]``, which forks them.

A run is a dict of options; what it gives is the logged losses and a digest of the trained weights.
"""

import json
import sys
import warnings
from pathlib import Path

import torch
from forked import in_processes
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from ports import own_port
from torch.utils.data import DataLoader
from toy import random_plan, toy_dims, toy_llava
from toy_training import labelled_batch

from yopo_train.data.sampler import TrainSampler
from yopo_train.recovery import DistillationOptions, LoraOptions, OptimizerOptions, YopoModule
from yopo_train.recovery.freezing import may_be_unused
from yopo_train.recovery.sharding import FSDP2

ROWS = [((3, "image", 6), 3), ((2, "image", 9), 7), ((9,), 2), ((1, "image", 5), 1), ((4, "image", 8), 5), ((12,), 8)]
"""Samples, and how many of each one's last tokens are labelled; some have no image."""

BATCH = 2
EQUAL = {
    "ce": {},
    "ce+kd": {"loss": "ce+kd", "steps": 6},
    "accumulated": {"accumulate": 2, "clip": 0.5},
    "sharded": {"sharded": True, "accumulate": 2, "clip": 0.5, "lora": {"projector": True}, "steps": 6},
    "kd, accumulated, checkpointing": {"loss": "kd", "accumulate": 2, "gradient_checkpointing": True, "steps": 6},
}
"""Runs that two ranks with batches of 2 and one with batches of 4 must do alike."""
PLANS = {
    "depth 1": {"depth": 1},
    "depth 0": {"depth": 0},
    "no heads": {"heads": 0.0},
    "no channels": {"channels": 0.0},
    "neither": {"heads": 0.0, "channels": 0.0},
    "few heads": {"heads": 0.1, "channels": 0.02},
    "all": {"heads": 1.0, "channels": 1.0, "radius": None},
}
UNUSED = {
    **{name: {"plan": plan, "steps": 2} for name, plan in PLANS.items()},
    "kd": {"loss": "kd", "steps": 2, "plan": {"depth": 1}},
    "dense": {"plan": None, "steps": 2},
    "projector": {"lora": {"projector": True}, "steps": 2},
    "full": {"tuning": "full", "steps": 2},
    "full, sharded": {"tuning": "full", "sharded": True, "steps": 2},
    "full, frozen": {"tuning": "full", "freeze": ["vision", "projector"], "steps": 2},
}
"""Runs that only have to come to an end on two ranks, one of which may have a batch without images."""


class Losses(YopoModule):
    """Keeps what it logs."""

    def log(self, name: str, value, **options) -> None:
        if name == "train/loss":
            self.__dict__.setdefault("found", []).append(float(value))


def rows_of(indices: list[int]) -> dict:
    samples, labels = zip(*(ROWS[index % len(ROWS)] for index in indices), strict=True)
    return labelled_batch(samples, labels, seed=sum(indices))


class Numbered(torch.utils.data.Dataset):
    """Rows that are their own numbers; what a row holds must not depend on the batch that it is in."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict:
        return rows_of([index])


def together(rows: list[dict]) -> dict:
    """Rows of one sample each as a right-padded batch."""
    longest = max(row["input_ids"].shape[1] for row in rows)
    batch = {"meta": [{} for _ in rows]}
    for name, fill in (("input_ids", 0), ("attention_mask", 0), ("labels", -100)):
        padded = [torch.nn.functional.pad(r[name], (0, longest - r[name].shape[1]), value=fill) for r in rows]
        batch[name] = torch.cat(padded)
    pixels = [row["pixel_values"] for row in rows if "pixel_values" in row]
    return batch | ({"pixel_values": torch.cat(pixels)} if pixels else {})


def run(
    ranks: int,
    loss: str = "ce",
    plan: dict | None = {"heads": 0.5},  # noqa: B006
    accumulate: int = 1,
    clip: float | None = None,
    batch: int = BATCH,
    steps: int = 20,
    lora: dict = {},  # noqa: B006
    sharded: bool = False,
    **options,
) -> dict:
    """Train, and tell the losses and the sum of the trained weights' squares."""
    lora = LoraOptions(r=2, **lora)
    optimizer = OptimizerOptions(lr=5e-3)
    fake = "plan.safetensors" if plan is not None else None
    module = Losses(
        "org/base", lora=lora, optimizer=optimizer, loss=loss, plan=fake,
        distillation=DistillationOptions(weight=0.4, temperature=2.0), **options,
    )  # fmt: skip
    torch.manual_seed(0)
    module.model = toy_llava(layers=3)
    if plan is not None:
        module.prune_with(random_plan(toy_dims(module.model), **{"depth": 2, "radius": 1, **plan}))
    module.start_tuning()
    strategy = "auto"
    if ranks > 1 and sharded:
        strategy = FSDP2()
    elif ranks > 1:
        strategy = "ddp_find_unused_parameters_true" if may_be_unused(module.model) else "ddp"
    trainer = Trainer(
        accelerator="cpu", devices=ranks, strategy=strategy, max_steps=steps,
        accumulate_grad_batches=accumulate, gradient_clip_val=clip, use_distributed_sampler=False, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    loader = DataLoader(Numbered(), batch_size=batch, sampler=TrainSampler(12, seed=1), collate_fn=together)
    trainer.fit(module, loader)
    whole = {name: getattr(w, "full_tensor", lambda w=w: w)() for name, w in module.trainable().items()}
    weights = {name: float(weight.detach().double().square().sum()) for name, weight in whole.items()}
    return {"losses": module.found, "weights": weights}


def main(out: Path, ranks: int, names: list[str]) -> int:
    """The runs with these names, or all, as torchrun would start them; gives the first exit code other than 0."""
    common = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": own_port(), "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks,
        "NODE_RANK": 0, "GROUP_RANK": 0, "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip

    def work(rank: int) -> int:
        rank_zero_only.rank = rank  # what Lightning takes from the variables when it is imported
        runs = {name: options for name, options in (EQUAL | UNUSED).items() if name in names or not names}
        found = {name: run(ranks, **options) for name, options in runs.items()}
        if rank == 0:
            out.write_text(json.dumps(found))
        return 0

    variables = [common | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(ranks)]
    codes = in_processes(variables, work, [out.with_suffix(f".{rank}.log") for rank in range(ranks)])
    return next(filter(None, codes), 0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
