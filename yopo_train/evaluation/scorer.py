"""The callback that scores answers while Lightning validates, tests or predicts."""

from __future__ import annotations

import json
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from ..run_folder import write_text
from .exact_match import ExactMatch, is_match
from .generation import generate_answers


class GenerationScorer(L.Callback):
    """Generate an answer to each evaluation prompt, score it, and keep it.

    Works on any LightningModule with ``model`` (the ``transformers`` model, pruned or not), ``processor`` and
    ``has_cache`` (whether the model may keep a KV cache); what its steps return does not matter. Loaders must give
    `EvalCollator`'s batches and have a dataset with ``kinds``.

    During ``fit`` the scores are logged as ``val/accuracy`` and ``val/accuracy/<kind>``, otherwise under
    :attr:`stage`'s name. Answers go to ``<folder>/<name>.jsonl``, one JSON object a line: id, kind, question, answer,
    prediction, correct. The file appears under its name when it is complete.

    Parameters
    ----------
    folder : str or Path, optional
        Where predictions are written, seen by all ranks. ``None`` writes none.
    stage : str
        What is being scored, e.g. ``base``, ``pruned``, ``recovered``. May be set before each run of the trainer.
    max_new_tokens : int
        Longest answer.

    Attributes
    ----------
    results : dict
        name -> ``{"accuracy": ..., "accuracy/<kind>": ...}`` over all ranks. Strategies that fork or spawn leave it in
        their processes: read ``trainer.callback_metrics`` then.
    """

    def __init__(self, folder: str | Path | None = None, stage: str = "test", max_new_tokens: int = 16) -> None:
        self.folder = Path(folder) if folder is not None else None
        self.stage, self.max_new_tokens = stage, max_new_tokens
        self.results: dict[str, dict[str, float]] = {}
        self._metric: ExactMatch | None = None

    def _begin(self, trainer: L.Trainer, loaders: Any) -> None:
        if trainer.sanity_checking:
            return
        loaders = loaders if isinstance(loaders, (list, tuple)) else [loaders]
        kinds = chain.from_iterable(loader.dataset.kinds for loader in loaders)
        self._metric = ExactMatch(kinds).to(trainer.strategy.root_device)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._part(trainer, trainer.global_rank).write_text("")

    def _score(self, trainer: L.Trainer, pl_module: Any, batch: dict[str, Any]) -> None:
        if trainer.sanity_checking:
            return
        with trainer.precision_plugin.forward_context():
            predictions = generate_answers(
                pl_module.model, pl_module.processor, batch, self.max_new_tokens, use_cache=pl_module.has_cache
            )
        meta = batch["meta"]
        self._metric.update(predictions, [m["answer"] for m in meta], [m["kind"] for m in meta])
        if self.folder is not None:
            with self._part(trainer, trainer.global_rank).open("a", encoding="utf-8") as file:
                for sample, prediction in zip(meta, predictions, strict=True):
                    line = {**sample, "prediction": prediction, "correct": is_match(prediction, sample["answer"])}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _finish(self, trainer: L.Trainer) -> dict[str, float]:
        """Sum over the ranks, complete the file, and give the scores to log."""
        if trainer.sanity_checking:
            return {}
        name = self._name(trainer)
        self.results[name] = self._metric.compute()
        if self.folder is not None:
            trainer.strategy.barrier("predictions written")
            if trainer.is_global_zero:
                self._merge(trainer)
            trainer.strategy.barrier("predictions merged")
        return {f"{name}/{key}": score for key, score in self.results[name].items()}

    def _merge(self, trainer: L.Trainer) -> None:
        """One file from the ranks' parts. Ranks take turns in the data, so taking turns restores its order."""
        parts = [self._part(trainer, rank) for rank in range(trainer.world_size)]
        # not splitlines(): answers may hold other line ends of Unicode's
        lines = zip_longest(*(part.read_text(encoding="utf-8").split("\n")[:-1] for part in parts))
        whole = self.folder / f"{self._name(trainer)}.jsonl"
        write_text(whole, "".join(f"{line}\n" for line in chain.from_iterable(lines) if line is not None))
        for part in parts:
            part.unlink()

    def _name(self, trainer: L.Trainer) -> str:
        return "val" if trainer.state.fn == TrainerFn.FITTING else self.stage

    def _part(self, trainer: L.Trainer, rank: int) -> Path:
        return self.folder / f"{self._name(trainer)}.jsonl.rank{rank}.tmp"

    # -- Lightning's hooks ---------------------------------------------------------------------------------------
    def on_validation_epoch_start(self, trainer, pl_module) -> None:
        self._begin(trainer, trainer.val_dataloaders)

    def on_test_epoch_start(self, trainer, pl_module) -> None:
        self._begin(trainer, trainer.test_dataloaders)

    def on_predict_epoch_start(self, trainer, pl_module) -> None:
        self._begin(trainer, trainer.predict_dataloaders)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self._score(trainer, pl_module, batch)

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self._score(trainer, pl_module, batch)

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self._score(trainer, pl_module, batch)

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        # The scores are those of all ranks already.
        pl_module.log_dict(self._finish(trainer), prog_bar=False, sync_dist=False)

    def on_test_epoch_end(self, trainer, pl_module) -> None:
        pl_module.log_dict(self._finish(trainer), prog_bar=False, sync_dist=False)

    def on_predict_epoch_end(self, trainer, pl_module) -> None:
        self._finish(trainer)  # nothing can be logged in a prediction loop
