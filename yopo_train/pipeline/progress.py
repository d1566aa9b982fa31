"""One progress bar a stage: how far, how fast, how long still; and a line now and then where there is no terminal."""

import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_EVERY_S = 15.0
Clock = Callable[[], float]


class StageProgress(ProgressBar):
    """Progress of one stage: optimizer steps where it trains, batches where it reads.

    Parameters
    ----------
    name
        What stands in front of the bar.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self._show = True
        self._bar: Bar | None = None

    # Lightning switches the bars of all ranks but the first off
    def disable(self) -> None:
        self._show = False

    def enable(self) -> None:
        self._show = True

    def on_train_start(self, trainer: Trainer, *args: Any) -> None:
        self._start("steps", int(trainer.estimated_stepping_batches), trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        metrics = trainer.progress_bar_metrics
        text = f"loss {metrics['train/loss']:.3f}" if "train/loss" in metrics else ""
        if "train/tokens_per_s" in metrics:
            text += f", {metrics['train/tokens_per_s']:.0f} tokens/s"
        self._advance_to(trainer.global_step, text)

    def on_validation_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.state.fn != "fit":
            self._start("batches", sum(trainer.num_val_batches))

    def on_test_start(self, trainer: Trainer, *args: Any) -> None:
        self._start("batches", sum(trainer.num_test_batches))

    def on_predict_start(self, trainer: Trainer, *args: Any) -> None:
        self._start("batches", sum(trainer.num_predict_batches))

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if trainer.state.fn != "fit":
            self._advance_to(batch_idx + 1)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._advance_to(batch_idx + 1)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._advance_to(batch_idx + 1)

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        self._stop()

    def on_exception(self, *args: Any) -> None:
        self._stop()

    def _start(self, unit: str, total: int, done: int = 0) -> None:
        if self._show:
            self._bar = Bar(self.name, unit, total, done)

    def _advance_to(self, done: int, text: str = "") -> None:
        if self._bar is not None:
            self._bar.advance_to(done, text)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class Bar:
    """A rich bar on a terminal, plain lines elsewhere.

    Parameters
    ----------
    clock
        Seconds, for the tests.
    """

    def __init__(
        self, name: str, unit: str, total: int, done: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name, self.unit, self.total, self.first, self.clock = name, unit, total, done, clock
        self.console = Console()
        self.started = self.last_line = clock()
        self.live = None
        if self.console.is_terminal:
            columns = ("{task.description}", "{task.fields[rate]}", "{task.fields[text]}")
            name_column, rate_column, text_column = (TextColumn(column) for column in columns)
            progress = (BarColumn(), MofNCompleteColumn(), rate_column, TimeElapsedColumn(), TimeRemainingColumn())
            self.live = Progress(name_column, *progress, text_column, console=self.console)
            self.task = self.live.add_task(f"      {name}", total=total, completed=done, rate="", text="")
            self.live.start()

    def advance_to(self, done: int, text: str) -> None:
        """Show that so many are done."""
        now = self.clock()
        rate = (done - self.first) / max(now - self.started, 1e-9)
        shown_rate = f"{rate:.1f} {self.unit}/s" if rate >= 1 else f"{1 / max(rate, 1e-9):.1f} s each"
        if self.live is not None:
            self.live.update(self.task, completed=done, rate=shown_rate, text=text)
        elif rate and now - self.last_line >= PLAIN_EVERY_S and done < self.total:
            self.last_line = now
            left = (self.total - done) / rate
            parts = [f"{done}/{self.total} {self.unit}", shown_rate, f"{left:.0f} s left", *filter(None, [text])]
            print(f"      {self.name}: {', '.join(parts)}", flush=True)

    def stop(self) -> None:
        """Leave the bar as it is."""
        if self.live is not None:
            self.live.stop()
