"""Two gloo ranks that take turns with the samples, as the trainer's sampler does: one of them has a sample less."""

import json

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader
from toy import random_plan, toy_batch, toy_dims, toy_llava

from yopo_train.calibration import PlanConfig, Scores, calibrate
from yopo_train.calibration.judge import OutputJudge
from yopo_train.calibration.judging import JudgingModule, searched
from yopo_train.cost import Prompt

SAMPLES = [[2, "image", 4], ["image", 3], [3, "image", 1, "image", 2], [5], [1, "image", 2]]
PROMPT = Prompt([(1, 4, 4)], 8, [2])
NEW = 3


def batches() -> list[dict]:
    """One batch a sample."""
    return [toy_batch([sample], seed=number) for number, sample in enumerate(SAMPLES)]


class OfRanks(JudgingModule):
    """Each rank leaves what it found in a file."""

    def __init__(self, path, work) -> None:
        super().__init__(toy_llava(2), work, NEW)
        self.path = path

    def on_validation_epoch_start(self) -> None:
        torch.set_num_threads(1)
        super().on_validation_epoch_start()

    def val_dataloader(self) -> DataLoader:
        return DataLoader(batches()[self.trainer.global_rank :: 2], batch_size=None)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        (self.path / str(self.trainer.global_rank)).write_text(json.dumps(self.result))


def on_ranks(path, work) -> list:
    """What each of two ranks finds."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp_fork", use_distributed_sampler=False, **quiet)
    trainer.validate(OfRanks(path, work), verbose=False)
    return [json.loads((path / rank).read_text()) for rank in ("0", "1")]


def alone(work):
    """What one process finds."""
    judge = OutputJudge(toy_llava(2), NEW)
    for batch in batches():
        judge.add(batch)
    return work(judge)


@pytest.fixture(scope="module")
def scores() -> Scores:
    return calibrate(toy_llava(2), batches())


def test_the_first_samples_are_the_same_ones(tmp_path):
    plan = random_plan(toy_dims(toy_llava(2)), depth=3, radius=1)

    def work(judge: OutputJudge) -> list[float]:
        return [value for samples in (1, 2, 3, None) for value in judge(plan, samples)]

    first, second = on_ranks(tmp_path, work)
    assert first == second == pytest.approx(alone(work), rel=1e-5)


def test_every_rank_finds_the_plan_of_a_single_process(scores, tmp_path, monkeypatch):
    monkeypatch.setattr("yopo_train.calibration.auto.ABLATION_SAMPLES", 2)  # less than all, as in a real run

    def work(judge: OutputJudge) -> tuple:
        config = PlanConfig(method="auto", budget=0.3, evaluations=60)
        plan, trace = searched(judge, scores, config, PROMPT)
        return plan.id, plan.made_by["kl"], [entry["plan"] for entry in trace["trace"]]

    first, second = on_ranks(tmp_path, work)
    assert first == second
    plan, kl, tried = alone(work)
    assert (first[0], first[2]) == (plan, tried) and first[1] == pytest.approx(kl, rel=1e-5)
