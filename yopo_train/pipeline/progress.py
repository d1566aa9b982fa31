"""One progress bar a stage, fed by Lightning."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar

from yopo_train.progress import Bar


class StageProgress(ProgressBar):
    """Progress of one stage: optimizer steps where it trains, batches where it reads.

    Parameters
    ----------
    name
        What stands in front of the bar.
    shown
        What to say behind it about the training so far.
    """

    def __init__(self, name: str, shown: Callable[[], str] = str) -> None:
        super().__init__()
        self.name, self.shown = name, shown
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
        self._advance_to(trainer.global_step, self.shown())

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
            self._bar = Bar(f"      {self.name}", unit, total, done)  # under the stage's headline

    def _advance_to(self, done: int, text: str = "") -> None:
        if self._bar is not None:
            self._bar.advance_to(done, text)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
