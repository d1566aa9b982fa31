"""Push the best adapter so far while training goes on."""

import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from yopo_train.errors import UserError
from yopo_train.hub.options import HubOptions
from yopo_train.hub.push import push_or_tell
from yopo_train.recovery import save_adapter


class PushBest(Callback):
    """Pushes the adapter whenever a `ModelCheckpoint` with a monitor has found a better one.

    The adapter is written between two steps, with the weights that the checkpoint has; the push itself runs beside the
    training, one at a time: what becomes best meanwhile waits, and only the latest of it. A push that fails is one
    line. Only the first rank pushes.

    Parameters
    ----------
    run
        The run folder, for what is pushed besides the adapter.
    target
        Where to.
    """

    def __init__(self, run: Path, target: HubOptions) -> None:
        self.run, self.target = run, target
        self._best: dict[int, str] = {}
        self._lock = threading.Lock()
        self._waiting: tuple[TemporaryDirectory, str] | None = None
        self._thread: threading.Thread | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What a continued training has found already is not pushed again."""
        self._news(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Before the next step the weights are still those of the checkpoint that was just written."""
        self._look(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last look; waits for what is under way."""
        self._look(trainer, pl_module)
        thread = self._thread  # which takes itself away when it is done
        if thread is not None:
            thread.join()

    def _look(self, trainer: Trainer, module: LightningModule) -> None:
        found = self._news(trainer)  # the same on all ranks
        if found is None:
            return
        trained = trainer.strategy.lightning_module_state_dict()  # asks all ranks, where they have parts
        weights = {name.removeprefix("model."): weight for name, weight in trained.items()}
        if trainer.global_rank != 0:
            return
        try:
            place = TemporaryDirectory()
            save_adapter(module.model, Path(place.name) / "adapter", module.base, module.revision, weights)
        except (OSError, UserError) as error:  # a full disk
            print(f"not pushed: {error}", flush=True)
            return
        score = "" if found.best_model_score is None else f" {float(found.best_model_score):.4g}"
        self._offer(place, f"Best so far: {found.monitor}{score} at step {trainer.global_step}")

    def _news(self, trainer: Trainer) -> ModelCheckpoint | None:
        """The checkpoint callback that has another best one than at the last look."""
        news = None
        for number, callback in enumerate(trainer.checkpoint_callbacks):
            if isinstance(callback, ModelCheckpoint) and callback.monitor is not None:
                best = callback.best_model_path
                if best != self._best.get(number, ""):
                    self._best[number], news = best, callback
        return news

    def _offer(self, place: TemporaryDirectory, message: str) -> None:
        with self._lock:
            replaced, self._waiting = self._waiting, (place, message)
            if self._thread is None:
                # ends with the process: ctrl-C does not wait for a slow network
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()
        if replaced is not None:
            replaced[0].cleanup()

    def _work(self) -> None:
        while True:
            with self._lock:
                if self._waiting is None:
                    self._thread = None
                    return
                (place, message), self._waiting = self._waiting, None
            with place as folder:
                push_or_tell(self.run, self.target, Path(folder) / "adapter", message)
