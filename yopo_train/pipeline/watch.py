"""What one sees of a training beside its loss, and what stops it: a loss that is no number any more, or explodes."""

import math
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from yopo_train.errors import UserError
from yopo_train.models.prompt import real_tokens, visual_mask
from yopo_train.ranks import of_all_ranks
from yopo_train.recovery import YopoModule
from yopo_train.recovery.zero import DeepSpeed

SMOOTHING = 0.9
"""Weight of the past in the running mean of the loss: about the last ten steps."""
SMALL_LOSS = 0.1
"""Nats; the lowest running mean that an explosion is measured against."""
SHOWN_ROWS = 32


class TrainingStopped(UserError):
    """The loss is no number any more, or explodes."""


@dataclass
class WatchOptions:
    """When a training that goes wrong is stopped. A loss or gradient that is not finite always stops it.

    Parameters
    ----------
    max_loss_ratio
        Stop when the running mean of the loss, over about ten steps, is more than so many times the lowest that it has
        been (or than this many times 0.1, where it has been lower); null: go on.
    """

    max_loss_ratio: float | None = 10.0

    def __post_init__(self) -> None:
        if self.max_loss_ratio is not None and not self.max_loss_ratio > 1:
            raise UserError(f"watch.max_loss_ratio is {self.max_loss_ratio}, expected a number > 1, or null")


class Watch(Callback):
    """Logs ``train/…``: gradient norm, learning rate, tokens and visual tokens a second, memory, data wait.

    Numbers of a device stay on it until the trainer logs: reading them at each step would have the device wait. Loss
    and gradient norm of each step are looked at there too, all at once; and always before a checkpoint is written, so
    that none holds what came out of a step that was not sound. On the CPU, where reading is free, they are looked at
    before each update.

    Rates are of this process. ``data_wait`` is the share of the time in which it waited for a batch; the device may
    have been busy meanwhile.

    Parameters
    ----------
    options
        When to stop.
    """

    def __init__(self, options: WatchOptions) -> None:
        self.options = options
        self.shown = ""
        """What a progress bar says: as of the last step that was logged."""
        self._rows: list[str] = []
        self._open: list[tuple[int, list[str], Tensor]] = []
        self._mean, self._lowest, self._count = 0.0, math.inf, 0
        self._norm: Tensor | None = None
        self._rate = 0.0
        self._reset_rates()

    # -- what is measured ---------------------------------------------------------------------------------------------
    def on_train_start(self, trainer: Trainer, pl_module: YopoModule) -> None:
        loop = trainer.fit_loop.epoch_loop
        before, after = type(loop)._on_before_fetch, type(loop)._on_after_fetch

        def waits() -> None:
            before(loop)
            self._fetching = time.perf_counter()

        def has_waited() -> None:
            self._waited += time.perf_counter() - self._fetching
            after(loop)

        loop._on_before_fetch, loop._on_after_fetch = waits, has_waited  # of this one trainer's loop
        pl_module.watchers.append(partial(self._look, trainer))
        self._reset_rates()

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Mapping[str, Any], batch_idx: int) -> None:
        self._began = time.perf_counter()
        self._rows += [str(meta.get("id")) for meta in batch.get("meta", [])] or [f"batch {batch_idx}"]
        self._tokens.append(torch.stack([real_tokens(batch).sum(), visual_mask(pl_module.model, batch).sum()]))

    def _look(self, trainer: Trainer, loss: Tensor, gradients: list[Tensor]) -> None:
        """Before each update: loss and gradients are of all processes and all accumulated batches."""
        self._norm = _norm(gradients, loss.device)
        if isinstance(trainer.strategy, DeepSpeed):  # has parts of them
            self._norm = trainer.strategy.reduce(self._norm**2, reduce_op="sum").sqrt()
        self._rate = trainer.optimizers[0].param_groups[0]["lr"]  # the scheduler changes it before the step is logged
        self._open.append((trainer.global_step, self._rows, torch.stack([loss, self._norm])))
        self._rows = []
        if loss.device.type == "cpu":
            self._settle(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        logs = trainer._logger_connector.should_update_logs and not trainer.fit_loop._should_accumulate()
        if logs:
            self._settle(trainer)  # waits for the device: belongs to the time of this batch
        self._busy += time.perf_counter() - self._began
        if logs and self._norm is not None:
            pl_module.log_dict(self._measured(trainer))
            self._reset_rates()

    def _measured(self, trainer: Trainer) -> dict[str, float | Tensor]:
        seconds = max(self._busy + self._waited, 1e-9)
        tokens, visual = (number / seconds for number in torch.stack(self._tokens).sum(dim=0).tolist())
        self.shown = f"loss {self._mean:.3f}, {tokens:.0f} tokens/s, {visual:.0f} of them visual"
        return {
            "train/grad_norm": self._norm,
            "train/lr": self._rate,
            "train/tokens_per_s": tokens,
            "train/visual_tokens_per_s": visual,
            "train/data_wait": self._waited / seconds,
            "train/memory_gib": _memory(trainer.strategy.root_device),
        }

    def _reset_rates(self) -> None:
        self._tokens: list[Tensor] = []
        self._busy = self._waited = self._fetching = self._began = 0.0

    # -- what stops it ------------------------------------------------------------------------------------------------
    def _settle(self, trainer: Trainer) -> None:
        """Look at the steps that nobody has looked at yet.

        Raises
        ------
        TrainingStopped
            One is not sound.
        """
        if not self._open:
            return
        numbers = torch.stack([numbers for _, _, numbers in self._open])
        looked_at, self._open = self._open, []
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None  # leaves such steps out by itself
        for (step, rows, _), (loss, norm) in zip(looked_at, numbers.tolist(), strict=True):
            if not math.isfinite(loss) or not (scaled or math.isfinite(norm)):
                _stop(trainer, step, rows, f"the loss is {loss:g} and the gradient norm {norm:g}, expected numbers")
            self._take(loss)
            limit = self.options.max_loss_ratio
            if limit is not None and self._mean > limit * max(self._lowest, SMALL_LOSS):
                means = f"its running mean {self._mean:.4g} is more than {limit:g} times the lowest, {self._lowest:.4g}"
                _stop(trainer, step, rows, f"the loss explodes: it is {loss:.4g}, {means} (watch.max_loss_ratio)")

    def _take(self, loss: float) -> None:
        """Into the running mean, of which the first steps are plain means."""
        self._count += 1
        past = min(SMOOTHING, 1 - 1 / self._count)
        self._mean = past * self._mean + (1 - past) * loss
        self._lowest = min(self._lowest, self._mean)

    # -- in checkpoints -----------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        return {"mean": self._mean, "lowest": self._lowest, "count": self._count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._mean, self._lowest, self._count = (state_dict[name] for name in ("mean", "lowest", "count"))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._settle(trainer)
        checkpoint["callbacks"][self.state_key] = self.state_dict()  # Lightning asked before


def _norm(gradients: list[Tensor], device: torch.device) -> Tensor:
    """Norm of all gradients together, before clipping."""
    norm = torch.nn.utils.get_total_norm(gradients)
    return (norm.full_tensor() if hasattr(norm, "full_tensor") else norm).to(device, torch.float32)


def _stop(trainer: Trainer, step: int, rows: list[str], why: str) -> None:
    """On all ranks at once, as all have seen the same numbers."""
    rows = [row for part in of_all_ranks(rows) for row in part]
    named, more = ", ".join(rows[:SHOWN_ROWS]), len(rows) - SHOWN_ROWS
    named += f" and {more} more" if more > 0 else ""
    raise TrainingStopped(
        f"training stopped in step {step}, counted from 0: {why}; rows of that step: {named}. The last checkpoint is "
        "from before it. A lower model.optimizer.lr, a longer warm-up or trainer.gradient_clip_val may help"
    )


def _memory(device: torch.device) -> float:
    """GiB: the most that a GPU has allocated; elsewhere the most that the process has had."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib / 2 ** (30 if sys.platform == "darwin" else 20)
