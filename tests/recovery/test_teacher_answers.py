"""Self-distillation on questions that nobody has answered: the base model answers them before training."""

import json

import pytest
from question_sets import make_row, write_split

from yopo_train.cli import main
from yopo_train.data.collate import EvalCollator
from yopo_train.data.rows import open_rows
from yopo_train.evaluation.generation import generate_answers
from yopo_train.models import load_base
from yopo_train.pipeline import stages
from yopo_train.run_folder import RunFolder

ASKED = [1, 3]


@pytest.fixture
def unlabelled(tmp_path):
    """Four training rows, one that ends with the question and one with an empty answer."""
    folder = tmp_path / "questions"
    rows = [make_row(index) for index in range(4)]
    rows[1]["messages"].pop()
    rows[3]["messages"][-1]["content"] = " "
    write_split(folder, "train", rows)
    for split in ("calibration", "test"):
        write_split(folder, split, [make_row(index) for index in range(5, 7)])
    return folder


def test_the_base_model_answers_and_the_pruned_one_follows(unlabelled, config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stages, "BENCH_REPEATS", 1)
    monkeypatch.setattr(stages, "BENCH_BATCH", 1)
    options = [f"--data.path={unlabelled}", "--data.calibration_samples=2", "--trainer.max_steps=2"]
    assert main(["fit", "--config", str(config), *options]) == 2
    assert "the last message must be the assistant's answer" in capsys.readouterr().err

    kd = ["--model.loss=kd", "--model.distillation.answer_tokens=4"]
    assert main(["fit", "--config", str(config), *options, *kd]) == 0
    assert "answered 2 of 4 training questions" in capsys.readouterr().out
    run = RunFolder(tmp_path / "run")
    found = [json.loads(line) for line in run.answers.read_text().splitlines()]
    assert [entry["row"] for entry in found] == ASKED and run.adapter.is_dir()

    model, processor = load_base(run.read_config()["model"]["base"])
    rows, _ = open_rows(unlabelled, "train", unanswered=True)
    assert rows.unanswered() == ASKED
    batch = EvalCollator(processor)([rows[place] for place in ASKED])
    assert [entry["answer"] for entry in found] == generate_answers(model, processor, batch, 4)
    rows.answers.update({1: "seven"})
    assert rows.select([1, 2])[0]["messages"][-1] == {"role": "assistant", "content": "seven"}
    assert rows.unanswered() == [3] and rows.select([0])[0]["messages"][-1]["content"] == "answer 0 0"
