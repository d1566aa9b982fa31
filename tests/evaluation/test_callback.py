"""Benchmarks while a model is trained."""

import copy

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from toy_benchmark import ToyItem

from yopo_train.errors import UserError
from yopo_train.evaluation import callback as module_under_test
from yopo_train.evaluation.callback import BenchmarkCallback
from yopo_train.evaluation.results import Result

NAME = "bench/gqa/accuracy"


class Training(L.LightningModule):
    """Trains one number beside the model, with dropout: its loss tells whether random numbers were drawn elsewhere."""

    def __init__(self, model, processor) -> None:
        super().__init__()
        self.model, self.processor, self.has_cache = model, processor, True
        self.number, self.losses, self.modes = torch.nn.Parameter(torch.ones(())), [], []

    def on_fit_start(self):
        self.model.train()
        self.model.model.vision_tower.eval()  # a frozen part

    def training_step(self, batch, batch_idx):
        loss = torch.nn.functional.dropout(self.number * torch.ones(64), 0.5).mean()
        self.losses.append(loss.item())
        self.modes.append((self.model.training, self.model.model.vision_tower.training))
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD([self.number], lr=0.1)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(range(6))

    def validation_step(self, batch, batch_idx): ...

    def val_dataloader(self):
        return torch.utils.data.DataLoader(range(1))


class Kept(Logger):
    """Keeps what it is told."""

    name, version = "kept", 0

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[int, dict]] = []

    def log_metrics(self, metrics, step=None):
        self.lines.append((step, dict(metrics)))

    def log_hyperparams(self, *args, **kwargs): ...

    def steps(self) -> list[int]:
        return [step for step, metrics in self.lines if NAME in metrics]


def fit(model, processor, *callbacks, logger=(), **options):
    torch.manual_seed(1)
    off = ("enable_progress_bar", "enable_model_summary", "use_distributed_sampler", "enable_checkpointing")
    options = dict.fromkeys(off, False) | {"max_steps": 5, "limit_val_batches": 0, "num_sanity_val_steps": 0} | options
    trainer = L.Trainer(accelerator="cpu", callbacks=list(callbacks), logger=list(logger) or False, **options)
    module = Training(copy.deepcopy(model), processor)
    trainer.fit(module)
    return trainer, module


@pytest.fixture
def scripted(monkeypatch):
    """Scores that go 10, 30, 20, 15, ... whatever the model answers."""
    asked = []

    def evaluate(model, processor, benchmark, items, **options) -> Result:
        assert not any(part.training for part in model.modules())
        asked.append(options)
        score = (10.0, 30.0, 20.0, 15.0, 14.0)[len(asked) - 1]
        return Result(benchmark.name, "llava", "accuracy", {"accuracy": score}, len(items), 0, 0.1, {})

    monkeypatch.setattr(module_under_test, "evaluate", evaluate)
    return asked


def test_a_model_is_scored_every_n_steps_and_at_the_end(model, processor):
    first, second = Kept(), Kept()
    callback = BenchmarkCallback(lambda: {"gqa": [ToyItem(1), ToyItem(2)]}, 2, batch_size=2, max_new_tokens=2)
    trainer, module = fit(model, processor, callback, logger=[first, second], log_every_n_steps=100)
    assert first.steps() == second.steps() == [2, 4, 5] == list(callback.results)
    assert trainer.callback_metrics[NAME] == callback.results[5]["gqa"].score == 0
    assert callback.results[4]["gqa"].items == 2

    _, plain = fit(model, processor)
    assert plain.losses == module.losses, "training is as it was without"
    assert set(module.modes) == {(True, False)}


def test_an_epoch_s_last_step_ends_training_too(model, processor, scripted):
    callback = BenchmarkCallback({"gqa": [ToyItem(1)]}, 4, protocol="lmms_eval", num_workers=1)
    fit(model, processor, callback, max_steps=-1, max_epochs=1, accumulate_grad_batches=2)
    assert list(callback.results) == [3]
    assert scripted[0]["protocol"] == "lmms_eval" and scripted[0]["num_workers"] == 1 and scripted[0]["use_cache"]


def test_the_best_checkpoint_is_that_of_the_best_score(model, processor, scripted, tmp_path):
    callback = BenchmarkCallback({"gqa": [ToyItem(1)]}, 1)
    best = ModelCheckpoint(tmp_path, monitor=NAME, mode="max", every_n_train_steps=1, filename="{step}")
    fit(model, processor, best, callback, enable_checkpointing=True)
    assert best.best_model_score == 30.0 and best.best_model_path.endswith("step=2.ckpt")


def test_training_stops_when_a_score_gets_worse(model, processor, scripted):
    callback = BenchmarkCallback({"gqa": [ToyItem(1)]}, 1)
    stop = EarlyStopping(NAME, mode="max", patience=2, check_on_train_epoch_end=False)
    trainer, _ = fit(model, processor, stop, callback, limit_val_batches=1, val_check_interval=1)
    assert trainer.global_step == 4, "10, 30, 20, 15"


def test_bad_input():
    with pytest.raises(UserError, match="every_n_steps is 0"):
        BenchmarkCallback({}, 0)
