"""Scoring while Lightning validates, tests and predicts."""

import copy
import json

import lightning as L
import pytest
import torch

from yopo_train.data.module import VQADataModule
from yopo_train.evaluation.scorer import GenerationScorer

MAX_NEW_TOKENS = 5
ACCURACY = 9 / 17  # right about even numbers, see conftest


class Answering(L.LightningModule):
    """The least that the scorer needs."""

    def __init__(self, model, processor) -> None:
        super().__init__()
        self.model, self.processor, self.has_cache = model, processor, True

    def training_step(self, batch, batch_idx):
        return sum(weight.sum() for weight in self.parameters()) * 0  # learns nothing

    def validation_step(self, batch, batch_idx): ...

    def test_step(self, batch, batch_idx): ...

    def predict_step(self, batch, batch_idx): ...

    def on_validation_epoch_end(self):
        self.log("ranks", float(self.trainer.world_size))

    on_test_epoch_end = on_validation_epoch_end

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def trainer_of(scorer: GenerationScorer, **kwargs) -> L.Trainer:
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "use_distributed_sampler")
    options = {"accelerator": "cpu", "devices": 1, "callbacks": [scorer], **dict.fromkeys(off, False)}
    return L.Trainer(**options | kwargs)


def data_of(folder, processor, **kwargs) -> VQADataModule:
    data = VQADataModule(str(folder), eval_batch_size=4, batch_size=4, **kwargs)
    data.processor = processor
    return data


def lines_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


@pytest.mark.parametrize("run", ["validate", "test", "predict"])
def test_scores_and_predictions(model, processor, samples, folder, tmp_path, run):
    scorer = GenerationScorer(tmp_path / "predictions", stage="base", max_new_tokens=MAX_NEW_TOKENS)
    trainer = trainer_of(scorer)
    getattr(trainer, run)(Answering(model, processor), datamodule=data_of(folder, processor))

    scores = scorer.results["base"]
    assert scores["accuracy"] == ACCURACY
    assert set(scores) == {"accuracy", "accuracy/colour", "accuracy/count", "accuracy/digit"}
    if run != "predict":
        logged = trainer.callback_metrics
        assert logged["base/accuracy"].item() == pytest.approx(ACCURACY)
        assert logged["base/accuracy/count"].item() == pytest.approx(scores["accuracy/count"])

    lines = lines_of(tmp_path / "predictions" / "base.jsonl")
    assert [line["id"] for line in lines] == [row["id"] for row in samples]
    assert [line["correct"] for line in lines] == [index % 2 == 0 for index in range(17)]
    for line, row in zip(lines, samples, strict=True):
        assert set(line) == {"id", "kind", "question", "answer", "prediction", "correct"}
        assert line["kind"] == row["kind"] and line["answer"] == row["messages"][-1]["content"]
        assert line["question"] == row["messages"][0]["content"].replace("<image>\n", "")
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["base.jsonl"], "temporary files stay"


def test_a_stage_may_be_scored_after_another(model, processor, folder, tmp_path):
    scorer = GenerationScorer(tmp_path, stage="base", max_new_tokens=MAX_NEW_TOKENS)
    trainer, module = trainer_of(scorer), Answering(model, processor)
    data = data_of(folder, processor, test_limit=6)
    trainer.test(module, datamodule=data)
    scorer.stage = "pruned"
    trainer.test(module, datamodule=data)
    assert scorer.results["base"] == scorer.results["pruned"]
    assert (tmp_path / "base.jsonl").read_text() == (tmp_path / "pruned.jsonl").read_text()
    assert len(lines_of(tmp_path / "base.jsonl")) == 6


def test_validation_during_fit(model, processor, folder, tmp_path):
    """Its name is val whatever the stage; the sanity check leaves nothing."""
    scorer = GenerationScorer(tmp_path / "predictions", stage="base", max_new_tokens=MAX_NEW_TOKENS)
    trainer = trainer_of(scorer, max_steps=2, num_sanity_val_steps=1, val_check_interval=1)
    trainer.fit(Answering(model, processor), datamodule=data_of(folder, processor))
    assert trainer.callback_metrics["val/accuracy"].item() == pytest.approx(ACCURACY)
    assert scorer.results == {"val": pytest.approx(scorer.results["val"])}
    assert len(lines_of(tmp_path / "predictions" / "val.jsonl")) == 17, "the second validation replaces the first"


def test_without_a_folder_nothing_is_written(model, processor, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    scorer = GenerationScorer(max_new_tokens=MAX_NEW_TOKENS)
    trainer_of(scorer).test(Answering(model, processor), datamodule=data_of(folder, processor))
    assert scorer.results["test"]["accuracy"] == ACCURACY
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision(model, processor, folder, tmp_path, precision):
    """Runs, with autocast where that is asked for; random weights answer what they like."""
    seen = []
    model = copy.deepcopy(model)  # the other tests' model must not be rounded
    model.lm_head.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    scorer = GenerationScorer(tmp_path / "predictions", max_new_tokens=2)
    trainer = trainer_of(scorer, precision=precision)
    trainer.test(Answering(model, processor), datamodule=data_of(folder, processor, test_limit=4))
    assert set(seen) == {torch.bfloat16}
    assert len(lines_of(tmp_path / "predictions" / "test.jsonl")) == 4


@pytest.mark.parametrize("run", ["test", "fit"])
def test_17_samples_on_two_ranks_count_17(model, processor, folder, tmp_path, run):
    """An odd number, unequal numbers of batches, other kinds on each rank: same scores and same file as on one."""
    files, scores = [], []
    for devices in (1, 2):
        scorer = GenerationScorer(tmp_path / str(devices), stage="val", max_new_tokens=MAX_NEW_TOKENS)
        several = {} if devices == 1 else {"devices": 2, "strategy": "ddp_fork"}
        trainer = trainer_of(scorer, max_steps=2, val_check_interval=2, num_sanity_val_steps=0, **several)
        getattr(trainer, run)(Answering(model, processor), datamodule=data_of(folder, processor))
        scores.append({name: value.item() for name, value in trainer.callback_metrics.items()})
        assert scores[-1].pop("ranks") == devices
        files.append((tmp_path / str(devices) / "val.jsonl").read_text(encoding="utf-8"))
    assert files[0] == files[1] and len(files[0].split("\n")) == 18
    assert scores[0] == scores[1] and scores[0]["val/accuracy"] == pytest.approx(ACCURACY)
    assert [path.name for path in (tmp_path / "2").iterdir()] == ["val.jsonl"]
