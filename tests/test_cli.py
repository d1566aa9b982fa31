"""The command line: configurations that compose, and one line for whatever is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from ports import own_port
from question_sets import make_row, write_split

from yopo_train.cli import YopoCLI, main
from yopo_train.cli_errors import one_line
from yopo_train.commands import PLAIN_COMMANDS

ROOT = Path(__file__).parents[1]
SHIPPED = sorted((ROOT / "configs").glob("*.yaml"))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Parsed(YopoCLI):
    """Parses and instantiates, and runs nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        self.ran = subcommand


# -- configurations ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_configuration_is_instantiated(file, tmp_path):
    first = file.read_text().splitlines()[0]
    assert first == f"# yopo-train fit --config configs/{file.name}"
    cli = Parsed(["fit", "--config", str(file), "--run_dir", str(tmp_path / "run")])
    assert cli.model.base == yaml.safe_load(file.read_text())["model"]["base"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", YopoCLI.subcommands())
def test_print_config_is_a_configuration(command, config, tmp_path, capsys):
    assert main([command, "--config", str(config), "--model.lora.r", "7", "--print_config"]) == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    cli = Parsed([command, "--config", str(printed)])
    assert (cli.model.lora_options.r, cli.model.pruning.preset) == (7, "paper-25")


def test_configurations_compose_and_options_win(config, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("seed_everything: 5\nmodel: {pruning: {preset: paper-12}, lora: {lora_alpha: 9}}\n")
    options = ["--model.pruning.choice", "random", "--model.optimizer.lr", "0.5"]
    cli = Parsed(["fit", "--config", str(config), "--config", str(other), *options])
    assert (cli.model.pruning.preset, cli.model.pruning.choice) == ("paper-12", "random")
    assert (cli.model.lora_options.r, cli.model.lora_options.lora_alpha) == (4, 9)
    assert cli.model.optimizer_options.lr == 0.5
    assert cli.datamodule.seed == 5


def test_the_order_of_pruning_options_does_not_matter(config):
    options = ["--model.pruning.choice=random", "--model.pruning.budget=0.3", "--model.pruning.preset=null"]
    for order in (options, options[::-1]):
        pruning = Parsed(["plan", "--config", str(config), *order]).model.pruning
        assert (pruning.choice, pruning.budget, pruning.preset) == ("random", 0.3, None)


def test_several_processes_write_one_run(config, tmp_path):
    command = [sys.executable, "-m", "yopo_train", "fit", "--config", str(config), "--trainer.max_steps=1"]
    options = ["--trainer.strategy=ddp", "--trainer.devices=2"]
    options += ["--evaluation.benchmarks=mme", f"--evaluation.sources={ROOT / 'data/benchmarks'}"]
    options += ["--evaluation.stages=[recovered]", "--evaluation.max_new_tokens=2", "--evaluation.batch_size=4"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    environment["MASTER_PORT"] = str(own_port())
    result = subprocess.run(command + options, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("[7/8] score recovered") == result.stdout.count("[8/8] benchmarks recovered") == 1
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["test"]["recovered"]["samples"] == 5
    lines = (tmp_path / "run" / "predictions" / "recovered.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [f"row-{i}" for i in range(23, 28)]
    asked = (tmp_path / "run" / "predictions" / "recovered" / "mme.jsonl").read_text().splitlines()
    assert len(asked) == results["benchmarks"]["recovered"]["mme"]["items"] > 8
    assert not list((tmp_path / "run" / "predictions" / "recovered").glob("*.rank*"))


def test_other_processes_do_not_read_what_the_first_one_writes(config, tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    monkeypatch.setattr("yopo_train.cli.score", lambda *args: "accuracy 0.0 %")  # the first process has not written yet
    for command in ("validate", "test"):
        assert main([command, "--config", str(config)]) == 0
    assert not (tmp_path / "run").exists()


def test_help_names_every_command():
    result = subprocess.run([sys.executable, "-m", "yopo_train", "--help"], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    for command in (*YopoCLI.subcommands(), "bench", "compare"):
        assert command in result.stdout


ENDS = {KeyboardInterrupt: (130, "interrupted"), SIGTERMException: (143, "terminated")}


@pytest.mark.parametrize("error", ENDS)
def test_a_command_that_keeps_nothing_does_not_promise_to_go_on(error, monkeypatch, capsys):
    def stopped(args):
        raise error

    monkeypatch.setitem(PLAIN_COMMANDS, ("bench",), stopped)
    code, line = ENDS[error]
    assert main(["bench"]) == code
    assert capsys.readouterr().out.splitlines() == [line]


# -- bad input --------------------------------------------------------------------------------------------------------
BAD = {
    "no subcommand": ([], "subcommand"),
    "unknown subcommand": (["fitt"], "fitt"),
    "unknown key": (["--model.lora.rank=3"], "model.lora.rank"),
    "unknown pruning key": (["--model.pruning.presett=paper-12"], "presett"),
    "wrong type": (["--trainer.max_steps=soon"], "trainer.max_steps is 'soon', expected an integer"),
    "wrong preset": (["--model.pruning.preset=paper-33"], "model.pruning.preset is 'paper-33', expected one of"),
    "budget of 0": (["--model.pruning.preset=null", "--model.pruning.budget=0"], "model.pruning.budget is 0"),
    "budget over 1": (["--model.pruning.preset=null", "--model.pruning.budget=1.5"], "model.pruning.budget is 1.5"),
    "preset and budget": (["--model.pruning.budget=0.5"], "model.pruning.budget is 0.5"),
    "lora rank": (["--model.lora.r=0"], "model.lora.r is 0"),
    "learning rate": (["--model.optimizer.lr=-1"], "model.optimizer.lr is -1"),
    "lora on nothing": (["--model.lora.target_modules=[no_proj]"], "model.lora"),
    "plan and pruning": (["--model.plan=plan.safetensors"], "model.plan is plan.safetensors"),
    "plan not there": (["--model.plan=none.safetensors", "--model.pruning=null"], "none.safetensors"),
    "no test batch": (["--trainer.limit_test_batches=0"], "trainer.limit_test_batches is 0"),
    "no training batch": (["--trainer.limit_train_batches=0"], "trainer.limit_train_batches is 0"),
    "negative clipping": (["--trainer.gradient_clip_val=-1"], "trainer.gradient_clip_val is -1"),
    "batch size": (["--data.batch_size=0"], "data.batch_size is 0"),
    "unknown checkpoint": (["--model.base=no/such/model"], "no/such/model"),
    "unknown data": (["--data.path=no/such/data"], "no/such/data"),
    "unknown strategy": (["--trainer.strategy=magic"], "magic"),
    "strategy that forks": (["--trainer.strategy=ddp_fork", "--trainer.devices=2"], "trainer.strategy is ddp_fork"),
    "too many devices": (["--trainer.accelerator=cuda", "--trainer.devices=99"], "section trainer"),
    "callback": (["--trainer.callbacks=[{class_path: ModelCheckpoint, init_args: {save_top_k: -5}}]"], "save_top_k"),
    "no batches a step": (["--trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches is 0"),
    "no steps": (["--trainer.max_steps=-1"], "trainer.max_steps"),
    "nothing to do": (["--model.pruning=null", "--trainer.max_steps=0", "--model.tuning=full"], "nothing to do"),
    "config not there": (["--config=none.yaml"], "none.yaml"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case, config, tmp_path, capsys):
    options, culprit = BAD[case]
    named = options[:1] and not options[0].startswith("--")
    args = options if named or not options else ["fit", "--config", str(config), *options]
    error = refused(args, capsys)
    assert culprit in error
    assert not (tmp_path / "run").exists()


def refused(args: list[str], capsys) -> str:
    """The one line with which a command ends."""
    assert main(args) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and error[0].startswith("error: "), error
    return error[0]


def test_a_configuration_that_is_no_yaml(tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text("model: {base: x\n")
    assert "line 2" in refused(["fit", "--config", str(tmp_path / "bad.yaml")], capsys)


def test_a_configuration_that_is_no_text(tmp_path, capsys):
    (tmp_path / "bad.yaml").write_bytes(b"model: \xff\xfe")
    assert "UTF-8" in refused(["fit", "--config", str(tmp_path / "bad.yaml")], capsys)


def test_a_missing_key_is_named(tmp_path, capsys):
    (tmp_path / "short.yaml").write_text("run_dir: x\nmodel: {base: y}\n")
    error = refused(["fit", "--config", str(tmp_path / "short.yaml")], capsys)
    assert "data.path" in error and "fit." not in error


def test_a_model_folder_without_processor(config, tiny_vlm, tmp_path, capsys):
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((tiny_vlm / name).read_bytes())
    assert "bare" in refused(["fit", "--config", str(config), f"--model.base={folder}"], capsys)
    assert not (tmp_path / "run").exists()


def test_a_plan_of_another_model(config, tmp_path, capsys):
    from toy import random_plan, toy_dims, toy_llava

    random_plan(toy_dims(toy_llava()), depth=2, radius=1).save(tmp_path / "plan.safetensors")
    options = [f"--model.plan={tmp_path / 'plan.safetensors'}", "--model.pruning=null"]
    assert "layers = 8" in refused(["fit", "--config", str(config), *options], capsys)


def test_an_empty_calibration_set(config, tmp_path, capsys):
    folder = tmp_path / "data"
    for split, size in (("train", 4), ("calibration", 0), ("validation", 2), ("test", 2)):
        write_split(folder, split, [make_row(index) for index in range(size)])
    assert "calibration" in refused(["fit", "--config", str(config), f"--data.path={folder}"], capsys)


def test_bad_rows_stop_the_run_before_the_first_stage(config, tmp_path, capsys):
    folder = tmp_path / "data"
    rows = [make_row(index) for index in range(4)]
    write_split(folder, "calibration", rows)
    write_split(folder, "validation", rows)
    write_split(folder, "train", rows)
    rows[2]["messages"][0]["content"] = "no placeholder"
    write_split(folder, "test", rows)
    assert "row-2" in refused(["fit", "--config", str(config), f"--data.path={folder}"], capsys)
    assert not (tmp_path / "run").exists()


TRAINING = ["--model.pruning=null", "--data.test_limit=1", "--trainer.limit_val_batches=1"]
MONITOR = "--trainer.callbacks=[{class_path: EarlyStopping, init_args: {monitor: val/none}}]"
BAD_IN_TRAINING = {
    "checkpoint": (["--ckpt_path={tmp}/config.yaml"], "config.yaml: not a checkpoint that can be read"),
    "interval": (["--trainer.val_check_interval=1000"], "section trainer: `val_check_interval` (1000) must be"),
    "share": (["--trainer.limit_train_batches=0.01"], "section trainer: You requested to check 0.01"),
    "monitor": (["--trainer.val_check_interval=1", MONITOR], "metric `val/none` which is not"),
}


@pytest.mark.parametrize("case", BAD_IN_TRAINING)
def test_what_is_found_only_in_training_is_one_line_too(case, config, tmp_path, capsys):
    options, culprit = BAD_IN_TRAINING[case]
    options = [option.replace("{tmp}", str(tmp_path)) for option in options]
    assert main(["fit", "--config", str(config), *TRAINING, *options]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and culprit in error


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_turns_out_to_be_broken_is_one_line(workers, config, tmp_path, capsys):
    folder = tmp_path / "data"
    for split in ("train", "calibration", "validation", "test"):
        rows = [make_row(index) for index in range(4)]
        if split == "calibration":
            rows[1]["images"] = [{"bytes": b"not a picture", "path": None}]
        write_split(folder, split, rows)
    options = [f"--data.path={folder}", f"--data.num_workers={workers}"]
    capsys.readouterr()
    error = refused(["calibrate", "--config", str(config), *options], capsys)
    assert "row-1" in error and "calibration" in error


@pytest.mark.parametrize(
    ("option", "culprit"),
    [
        ("--seed_everything=3", "seed_everything is 0 there and 3 here"),
        ("--data.calibration_samples=3", "data.calibration_samples is 4 there and 3 here"),
        ("--model.pruning.preset=paper-12", "model.pruning.preset is 'paper-25' there and 'paper-12' here"),
    ],
)
def test_a_folder_that_holds_another_run(option, culprit, config, tmp_path, capsys):
    assert main(["plan", "--config", str(config)]) == 0
    before = snapshot(tmp_path / "run")
    capsys.readouterr()
    error = refused(["fit", "--config", str(config), option], capsys)
    assert culprit in error and str(tmp_path / "run") in error
    assert snapshot(tmp_path / "run") == before


def test_the_same_folder_spelled_otherwise_is_the_same_run(config, tmp_path, capsys):
    assert main(["calibrate", "--config", str(config)]) == 0
    base = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"]["base"]
    assert main(["calibrate", "--config", str(config), f"--model.base={base}/"]) == 0


def test_a_folder_of_other_files(config, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    assert "config.yaml" in refused(["fit", "--config", str(config)], capsys)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_a_stage_that_is_not_there(config, tmp_path, capsys):
    assert "only: base" in refused(["test", "--config", str(config), "--stage=recovered"], capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Parser key \"a.b\":\n  Expected a <class 'int'>. Got value: x", "a.b is 'x', expected an integer"),
        ("Subcommand 'fit' does not accept option 'model.loraa.r'", "unknown key model.loraa.r"),
        ("the following arguments are required: fit.model.base", "the following arguments are required: model.base"),
    ],
)
def test_one_line(message, expected):
    assert one_line(message) == expected
