"""The course of the training, in the report and without one."""

import math

import pytest

from yopo_train.errors import UserError
from yopo_train.report.training import read_training, score_names, training_block, training_figure, write_training_plot
from yopo_train.run_folder import RunFolder


def run_with(folder, *lines: str) -> RunFolder:
    run = RunFolder(folder / "run")
    run.logs.mkdir(parents=True)
    (run.logs / "metrics.csv").write_text("\n".join(lines) + "\n")
    return run


def test_curves_of_training_and_of_scores_share_their_steps(tmp_path):
    run = run_with(
        tmp_path,
        "base/accuracy,epoch,step,train/data_wait,train/loss,train/lr,val/accuracy,val/accuracy/colour",
        "0.5,0,0,,,,,",
        ",0,9,0.02,2.5,0.1,,",
        ",0,9,,,,0.25,0.5",
        ",1,19,0.04,nan,0.05,,",
    )
    curves = read_training(run)
    assert curves["train/lr"] == [(10, 0.1), (20, 0.05)] and curves["val/accuracy"] == [(10, 0.25)]
    assert math.isnan(curves["train/loss"][1][1]) and "base/accuracy" not in curves and "epoch" not in curves
    assert score_names(curves) == ["val/accuracy", "val/accuracy/colour"]
    loss, scores, *others = training_figure(curves).axes
    assert loss.lines[0].get_xdata().tolist() == [10], "what is no number is left out"
    assert [line.get_label() for line in scores.lines] == score_names(curves) and len(others) == 2
    block = training_block(run, curves)
    assert block.picture.startswith(b"\x89PNG") and "3.0% of the time spent waiting for data" in block.notes[0]
    assert write_training_plot(run) == str(run.path / "plots" / "training.png")


def test_without_a_training_there_is_no_plot(tmp_path):
    run = run_with(tmp_path, "base/accuracy,epoch,step", "0.5,0,0")
    assert read_training(run) == {} and write_training_plot(run) is None
    assert not (run.path / "plots").exists()
    assert "yopo-train fit --config" in training_block(run, {}).missing[1]
    assert read_training(RunFolder(tmp_path / "none")) == {}


@pytest.mark.parametrize("line", ["x,1.5", ",1.5", "1,1.5,7", "1,many"])
def test_a_damaged_log_is_named(line, tmp_path):
    with pytest.raises(UserError, match=r"metrics\.csv: damaged, no training can be read from it: "):
        read_training(run_with(tmp_path, "step,train/loss", line))
