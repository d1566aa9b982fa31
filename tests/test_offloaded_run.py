"""Runs of a base model that does not fit into memory: ``model.device_map``."""

from pathlib import Path

import pytest

from yopo_train.cli import main
from yopo_train.plan import PruningPlan


def offloaded(folder: Path) -> list[str]:
    """As for a model of which a part fits into memory only."""
    return ["--model.device_map=auto", '--model.max_memory={"cpu": "4MiB"}', f"--model.offload_folder={folder}"]


def test_a_base_larger_than_the_memory_is_planned_for_and_scored(config, tmp_path, capsys):
    away, scored = offloaded(tmp_path / "away"), tmp_path / "run" / "predictions" / "pruned.jsonl"
    auto = ("--model.pruning.method=auto", "--model.pruning.evaluations=8", "--trainer.max_steps=0")
    with pytest.warns(UserWarning, match="its weights are offloaded"):
        assert main(["fit", "--config", str(config), *auto, *away]) == 0
    assert "bench" not in capsys.readouterr().out
    other = tmp_path / "in-memory"
    assert main(["fit", "--config", str(config), *auto, f"--run_dir={other}"]) == 0
    assert scored.read_text() == (other / "predictions" / "pruned.jsonl").read_text()
    plans = [PruningPlan.load(folder / "plan.safetensors") for folder in (tmp_path / "run", other)]
    assert plans[0].id == plans[1].id


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ([], "model.device_map is auto, expected null to train"),
        (["--trainer.max_steps=0", "--trainer.devices=2", "--trainer.strategy=ddp"], "expected null in 2 processes"),
        (["--model.device_map=null"], "model.max_memory is {'cpu': '4MiB'}, expected null where model.device_map"),
    ],
)
def test_what_an_offloaded_base_cannot_do_is_refused(options, culprit, config, tmp_path, capsys):
    assert main(["fit", "--config", str(config), *offloaded(tmp_path / "away"), *options]) == 2
    error = capsys.readouterr().err
    assert culprit in error and len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_an_adapter_on_an_offloaded_base_is_refused(config, tmp_path, capsys):
    assert main(["plan", "--config", str(config)]) == 0
    (tmp_path / "run" / "adapter").mkdir()
    capsys.readouterr()
    assert main(["test", "--config", str(config), *offloaded(tmp_path / "away")]) == 2
    error = capsys.readouterr().err
    assert "model.device_map is auto, expected null to load an adapter" in error and len(error.splitlines()) == 1
