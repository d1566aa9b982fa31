"""Whole runs, in one process, on the untrained tiny VLM."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoProcessor, LlavaForConditionalGeneration

from yopo_train.calibration import Scores
from yopo_train.cli import main
from yopo_train.pipeline import stages
from yopo_train.plan import PruningPlan
from yopo_train.recovery import YopoModule
from yopo_train.run_folder import RunFolder


def run(config: Path, *options: str, command: str = "fit") -> int:
    return main([command, "--config", str(config), *options])


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time and content of every file."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.fixture(autouse=True)
def short_bench(monkeypatch):
    monkeypatch.setattr(stages, "BENCH_REPEATS", 1)
    monkeypatch.setattr(stages, "BENCH_BATCH", 1)


def test_fit_fills_the_run_folder_and_a_second_time_does_nothing(config, tmp_path, capsys):
    assert run(config) == 0
    folder = tmp_path / "run"
    for name in ("config.yaml", "scores.safetensors", "plan.safetensors", "results.json", "summary.md"):
        assert (folder / name).is_file(), name
    assert Scores.load(folder / "scores.safetensors").n_samples == 4
    plan = PruningPlan.load(folder / "plan.safetensors")
    results = json.loads((folder / "results.json").read_text())
    for stage in ("base", "pruned", "recovered"):
        lines = (folder / "predictions" / f"{stage}.jsonl").read_text().splitlines()
        assert [json.loads(line)["id"] for line in lines] == [f"row-{i}" for i in range(23, 28)]
        assert results["test"][stage]["samples"] == 5
    assert results["cost"]["pruned"]["visual_flops"] <= 0.25 * results["cost"]["base"]["visual_flops"]
    assert results["train"]["steps"] == 3 and results["train"]["plan"] == plan.id
    assert {file.name for file in (folder / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    summary, printed = (folder / "summary.md").read_text(), capsys.readouterr().out
    for row in ("accuracy %", "visual FLOPs", "prefill FLOPs", "prefill ms", "KV cache"):
        assert row in summary and row in printed
    assert plan.id in summary and "[7/7] score recovered" in printed
    with (folder / "logs" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["train/loss"]] == ["0", "1", "2"]
    assert list((folder / "logs").glob("events.out.tfevents.*"))
    assert not [name for name in snapshot(folder) if ".tmp" in name]

    before = snapshot(folder)
    assert run(config) == 0
    assert capsys.readouterr().out.count("done already") == 7
    after = snapshot(folder)
    assert after.keys() == before.keys()
    made_again = {name for name in after if after[name] != before[name]}
    assert {name for name in made_again if not name.startswith("plots/")} <= {"summary.md", "report.html"}
    assert all(after[name][1] == before[name][1] for name in made_again)


def test_auto_leaves_what_it_tried_and_curves_what_each_choice_changes(config, tmp_path, capsys):
    auto = ("--model.pruning.method=auto", "--model.pruning.evaluations=30")
    assert run(config, *auto, command="plan") == 0
    folder = tmp_path / "run"
    plan, search = PruningPlan.load(folder / "plan.safetensors"), json.loads((folder / "search.json").read_text())
    assert search["chosen"] == plan.id and plan.made_by["method"] == "auto" and search["samples"] == 4
    assert plan.cost["visual_share"] <= 0.25
    assert (folder / "plots" / "frontier.png").is_file()
    printed = capsys.readouterr().out
    assert "[2/2] plan" in printed and "report.html" in printed
    assert "warning: the calibration set is small" in printed or "agree" not in printed

    assert run(config, *auto, command="curves") == 0
    drawn = json.loads((folder / "curves.json").read_text())
    assert drawn["samples"] == 4 and [point["value"] for point in drawn["depth"]] == list(range(8, 0, -1))
    assert not (folder / "stability.json").exists()  # four samples have no two parts of eight
    assert "stability: needs one process and 16 samples or more" in capsys.readouterr().out
    assert (folder / "plots" / "depth.png").is_file()


@pytest.mark.parametrize("wrong", ["depth=9", "head_mask=none.npy"])
def test_a_plan_that_the_model_cannot_have_is_refused_before_anything_is_measured(wrong, config, tmp_path, capsys):
    assert run(config, f"--model.pruning.{wrong}", command="plan") == 2
    error = capsys.readouterr().err
    assert ("model.pruning.depth is 9" in error or "none.npy" in error) and len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_plan_without_any_head_is_warned_of(config, tmp_path, capsys):
    np.save(tmp_path / "none.npy", np.zeros((8, 8)))
    assert run(config, f"--model.pruning.head_mask={tmp_path / 'none.npy'}", command="plan") == 0
    assert "warning: no head sees the image" in capsys.readouterr().out


def test_without_steps_the_run_ends_training_free_and_can_go_on(config, tmp_path, capsys):
    folder = tmp_path / "run"
    assert run(config, "--trainer.max_steps=0") == 0
    assert json.loads((folder / "results.json").read_text())["test"].keys() == {"base", "pruned"}
    assert "recovered" not in (folder / "summary.md").read_text()
    assert not (folder / "adapter").exists() and not (folder / "checkpoints").exists()
    capsys.readouterr()
    assert run(config, "--model.lora.r=2") == 0
    assert capsys.readouterr().out.count("done already") == 5
    assert "recovered" in (folder / "summary.md").read_text()


def test_stages_that_are_lost_are_made_again_from_the_others(config, tmp_path, capsys):
    folder = tmp_path / "run"
    assert run(config) == 0
    results = json.loads((folder / "results.json").read_text())
    first = (folder / "predictions" / "recovered.jsonl").read_text()
    (folder / "predictions" / "recovered.jsonl").unlink()
    del results["test"]["recovered"]
    (folder / "results.json").write_text(json.dumps(results))
    capsys.readouterr()
    assert run(config) == 0
    assert capsys.readouterr().out.count("done already") == 6
    assert (folder / "predictions" / "recovered.jsonl").read_text() == first  # from the saved adapter


def test_what_is_made_again_is_scored_again(config, tmp_path, capsys):
    folder = RunFolder(tmp_path / "run")
    assert run(config) == 0
    shutil.rmtree(folder.adapter)
    assert run(config, "--model.lora.r=2") == 2, "the checkpoint of its last step is there"
    shutil.rmtree(folder.checkpoints)
    capsys.readouterr()
    assert run(config, "--model.lora.r=2") == 0
    printed = capsys.readouterr().out
    assert printed.count("done already") == 5 and "[7/7] score recovered: the recovered" in printed

    shutil.rmtree(folder.adapter)
    shutil.rmtree(folder.checkpoints)
    folder.plan.unlink()
    assert run(config, "--trainer.max_steps=0", "--model.pruning.choice=prefix") == 0
    printed = capsys.readouterr().out
    assert printed.count("done already") == 2 and "[4/5] score pruned: the pruned" in printed
    results = folder.results()
    assert results["test"].keys() == {"base", "pruned"} and "train" not in results and results["bench"]


def test_another_plan_is_not_put_under_trained_weights(config, tmp_path, capsys):
    folder = RunFolder(tmp_path / "run")
    assert run(config, command="plan") == 0
    made = PruningPlan.load(folder.plan).id
    folder.adapter.mkdir()
    for trained, code in (("0" * 12, 2), (made, 0)):
        folder.record("train", {"plan": trained})
        folder.plan.unlink(missing_ok=True)
        capsys.readouterr()
        assert run(config, command="plan") == code
        assert folder.plan.is_file() is (code == 0)
        assert (f"trained under plan {trained}, but its plan is now {made}" in capsys.readouterr().err) is (code == 2)


def test_an_interrupted_training_goes_on_from_its_checkpoint(config, tmp_path, monkeypatch, capsys):
    step = YopoModule.training_step

    def interrupted(self, batch, batch_idx):
        if self.global_step == 3:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    monkeypatch.setattr(YopoModule, "training_step", interrupted)
    assert run(config, "--trainer.max_steps=4") == 130
    assert capsys.readouterr().out.splitlines()[-1] == "interrupted; the same command goes on from here"
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3, "ctrl-C loses no step"
    assert all("lora_" in name for name in checkpoint["state_dict"])
    monkeypatch.setattr(YopoModule, "training_step", step)
    assert run(config, "--trainer.max_steps=4") == 0
    assert "continued from" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "results.json").read_text())["train"]["steps"] == 4


def test_full_training_without_pruning_saves_a_model(config, tmp_path, tiny_vlm, monkeypatch):
    folder, scored = tmp_path / "run", []
    monkeypatch.setattr(YopoModule, "on_test_start", lambda self: scored.append(self.model.lm_head.weight.clone()))
    full = ["--model.pruning=null", "--model.tuning=full", "--model.save_dtype=bfloat16"]
    assert run(config, *full) == 0
    results = json.loads((folder / "results.json").read_text())
    assert results["test"].keys() == {"trained"}
    model = LlavaForConditionalGeneration.from_pretrained(folder / "model")
    AutoProcessor.from_pretrained(folder / "model")
    untrained = LlavaForConditionalGeneration.from_pretrained(tiny_vlm)
    assert not torch.equal(model.lm_head.weight, untrained.lm_head.weight)
    assert {w.dtype for w in load_file(folder / "model" / "model.safetensors").values()} == {torch.bfloat16}
    assert len(scored) == 1 and torch.equal(scored[0].float(), model.lm_head.weight.float()), "the saved weights"
    assert not (folder / "adapter").exists()


def test_full_training_of_a_pruned_model_saves_weights_in_base_order(config, tmp_path, tiny_vlm):
    assert run(config, "--model.tuning=full", "--model.optimizer.lr=1e-12") == 0
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path / "run" / "model")
    untrained = LlavaForConditionalGeneration.from_pretrained(tiny_vlm)
    for (name, weight), same in zip(model.named_parameters(), untrained.parameters(), strict=True):
        torch.testing.assert_close(weight, same, rtol=0, atol=1e-9, msg=name)
    assert run(config, "--model.tuning=full", "--model.optimizer.lr=1e-12", command="test") == 0


def test_a_given_plan_needs_no_calibration(config, tmp_path):
    assert run(config, command="plan") == 0
    plan = tmp_path / "run" / "plan.safetensors"
    options = ["--model.pruning=null", f"--model.plan={plan}", f"--run_dir={tmp_path / 'second'}"]
    assert run(config, "--trainer.max_steps=0", *options) == 0
    assert not (tmp_path / "second" / "scores.safetensors").exists()
    assert PruningPlan.load(tmp_path / "second" / "plan.safetensors").id == PruningPlan.load(plan).id


def test_the_random_choice_follows_the_seed(config, tmp_path):
    plans = []
    for seed in (0, 0, 1):
        folder = tmp_path / f"run{len(plans)}"
        options = ["--model.pruning.choice=random", f"--seed_everything={seed}", f"--run_dir={folder}"]
        assert run(config, *options, command="plan") == 0
        plans.append(PruningPlan.load(folder / "plan.safetensors").id)
    assert plans[0] == plans[1] != plans[2]


def test_subcommands_take_the_saved_configuration(config, tmp_path, capsys):
    folder = tmp_path / "run"
    assert run(config) == 0
    saved = folder / "config.yaml"
    assert saved.read_text().startswith("# yopo-train fit --config ")
    assert yaml.safe_load(saved.read_text())["model"]["lora"]["r"] == 4
    capsys.readouterr()
    for command, stage in (("validate", "recovered"), ("test", "recovered"), ("calibrate", None), ("plan", None)):
        assert run(saved, command=command) == 0
        printed = capsys.readouterr().out
        assert (stage or "done already") in printed
    for stage in ("base", "pruned", "recovered"):
        assert run(saved, f"--stage={stage}", command="predict") == 0
        same, expected = (folder / "predictions" / f"{name}.jsonl" for name in (f"predict-{stage}", stage))
        assert same.read_text() == expected.read_text()


def losses(folder: Path) -> list[float]:
    with (folder / "logs" / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


def test_a_run_repeats_itself_with_and_without_gradient_checkpointing(config, tmp_path):
    found = []
    for options in ([], [], ["--model.gradient_checkpointing=true"], ["--seed_everything=1"]):
        folder = tmp_path / f"run{len(found)}"
        assert run(config, f"--run_dir={folder}", *options) == 0
        found.append(losses(folder))
    assert len(found[0]) == 3 and found[0] == found[1] != found[3]
    assert found[0] == pytest.approx(found[2], rel=1e-5)


def test_training_is_the_same_whether_or_not_other_stages_ran_before(config, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert run(config, f"--run_dir={first}") == 0
    assert run(config, f"--run_dir={second}", "--trainer.max_steps=0") == 0
    assert run(config, f"--run_dir={second}") == 0
    assert losses(first) == losses(second)


def test_scores_are_logged_during_training_too(config, tmp_path):
    options = ["--trainer.limit_val_batches=1.0", "--trainer.check_val_every_n_epoch=null"]
    assert run(config, *options, "--trainer.val_check_interval=2") == 0
    folder = tmp_path / "run"
    with (folder / "logs" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["val/accuracy"]]
    assert [row["step"] for row in rows] == ["1"]
    assert len((folder / "predictions" / "val.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    "options",
    [
        ["--trainer.precision=bf16-mixed", "--model.dtype=bfloat16"],
        ["--trainer.precision=bf16-true"],
        ["--model.backend=reference", "--model.tuning=full", "--trainer.logger=false"],
        ["--trainer.max_steps=-1", "--trainer.max_epochs=1", "--trainer.accumulate_grad_batches=2"],
    ],
    ids=lambda options: options[0],
)
def test_settings_that_touch_every_stage(options, config, tmp_path):
    assert run(config, *options) == 0
    assert json.loads((tmp_path / "run" / "results.json").read_text())["test"]["recovered"]["samples"] == 5
