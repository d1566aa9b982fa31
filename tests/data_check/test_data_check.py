"""The command data check: what it reports, and when it refuses."""

import json

import numpy as np
import pytest
import torch
import yaml
from question_sets import make_row, png, write_split

from yopo_train.calibration import PlanConfig
from yopo_train.cli import main
from yopo_train.commands import as_subcommand
from yopo_train.data.lengths import Lengths
from yopo_train.data.mixture import TrainSource
from yopo_train.data.module import VQADataModule
from yopo_train.data_check import check_data
from yopo_train.data_check.estimate import activation_bytes, processes, training_steps
from yopo_train.data_check.gather import batch_tokens, histogram, spread
from yopo_train.errors import UserError
from yopo_train.pipeline import Context, TrainerFactory
from yopo_train.plan import ModelDims, PruningPlan
from yopo_train.recovery import LoraOptions, YopoModule
from yopo_train.run_folder import RunFolder


@pytest.fixture
def cli(config, tmp_path, capsys):
    """Run the command; gives its report, and what it printed."""

    def run(*options: str, code: int = 0) -> tuple[dict, str, str]:
        file = tmp_path / "report.json"
        assert main(["data", "check", "--config", str(config), "--json", str(file), *options]) == code
        printed = capsys.readouterr()
        assert not (tmp_path / "run").exists(), "the run folder is for runs"
        return json.loads(file.read_text()) if file.is_file() else {}, printed.out, printed.err

    return run


@pytest.fixture
def check(tiny_vlm, questions, tmp_path):
    """The same without the command line, which takes its time: the report, and the error."""

    def run(decode=256, samples=0, probe=False, model=None, trainer=None, **data) -> tuple[dict, str | None]:
        run, file = RunFolder(tmp_path / "run"), tmp_path / "report.json"
        module = YopoModule(str(tiny_vlm), **{"pruning": PlanConfig(preset="paper-25"), **(model or {})})
        questions_of = VQADataModule(**{"path": str(questions), "batch_size": 4, "calibration_samples": 4, **data})
        settings = {"max_steps": 3, "limit_val_batches": 0, "accelerator": "cpu", **(trainer or {})}
        error = None
        try:
            context = Context(run, module, questions_of, TrainerFactory(run, settings), {}, "", 0)
            check_data(context, decode, samples, probe, str(file))
        except UserError as found:
            error = str(found)
        return json.loads(file.read_text()), error

    return run


def test_a_good_set(cli):
    report, out, _ = cli("--trainer.max_steps", "6", "--samples", "2")
    assert list(report["splits"]) == ["train", "calibration", "validation", "test"] and not report["problems"]
    train = report["splits"]["train"]
    assert train["rows"] == {"found": 16, "bad": 0, "looked_at": 16, "longer_than_max_length": 0, "used": 16}
    assert (train["images"]["named"], train["images"]["decoded"]) == (16, 16)
    assert sum(train["tokens"]["counts"]) == 16 and train["visual_tokens"]["sum"] == 16 * 144
    assert report["steps"] == {
        "batches_per_epoch": 4, "steps_per_epoch": 4, "steps": 6, "epochs": 1.5, "processes": 1, "rows_per_step": 4,
    }  # fmt: skip
    assert report["batches"]["largest_batch"]["visual_tokens"] == 4 * 144 and report["batches"]["padding"] >= 0
    assert report["memory"]["total"] == sum(report["memory"]["parts"].values()) > 10e6
    assert "by formula" in report["memory"]["assumes"] and "a plan will need less" in report["memory"]["assumes"]
    assert report["time"] == {"hours": None, "text": "unknown; --probe loads the model and measures a few steps"}
    sample = report["samples"][0]
    assert [run["kind"] for run in sample["runs"]] == ["prompt", "image", "prompt", "trained"]
    assert sample["runs"][1]["tokens"] == 144 and sample["runs"][3]["text"] == " answer 0 0</s>"
    assert "⟦ answer 0 0</s>⟧" in out and "<image: 144 tokens>" in out and "time: unknown" in out


def test_the_trained_weights_are_counted(check):
    """An adapter of rank r has r times the weights of one of rank 1."""
    sizes = [check(model={"lora": LoraOptions(r=rank)})[0]["memory"]["parts"] for rank in (1, 3)]
    assert sizes[1]["trained"] == 3 * sizes[0]["trained"] > 0 and sizes[1]["frozen"] == sizes[0]["frozen"]
    assert sizes[0]["optimizer"] == 2 * sizes[0]["trained"] == 2 * sizes[0]["gradients"]
    full = check(model={"tuning": "full"})[0]["memory"]["parts"]
    assert full["frozen"] == 0 and full["trained"] == sizes[0]["frozen"]


def test_a_probe_measures_steps(check):
    time = check(probe=True, trainer={"max_steps": 1000})[0]["time"]
    assert time["step_seconds"] > 0 and time["steps"] == 3
    assert time["hours"] == pytest.approx(1000 * time["step_seconds"] / 3600)
    assert "h for 1000 steps: " in time["text"] and "nothing pruned yet" in time["text"]


@pytest.fixture
def bad_set(tmp_path):
    """Twelve training rows: one without answer, one without its image, one cut off, one whose image is none."""
    rows = [make_row(number) for number in range(12)]
    for row in rows:
        row["images"] = ["a.png"]
    rows[3]["messages"] = rows[3]["messages"][:1]
    rows[5]["images"] = ["b.png"]
    rows[7]["images"] = ["cut.png"]
    rows[9]["images"] = ["none.png"]
    folder = tmp_path / "bad"
    for split in ("calibration", "validation", "test"):
        write_split(folder, split, [make_row(number) for number in range(3)])
    for name, content in {"a": png(0), "cut": png(0)[:80], "none": b"text"}.items():
        (folder / f"{name}.png").write_bytes(content)
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder), {"path": str(tmp_path / "train.jsonl"), "image_root": str(folder)}


def test_bad_rows_are_counted_and_refused(cli, bad_set):
    path, source = bad_set
    report, out, err = cli("--data.path", path, "--data.train", json.dumps([source]), code=2)
    train = report["splits"]["train"]
    assert train["sets"][0]["bad"] == {"no answer": 1, "image is missing": 1}
    assert train["images"]["faults"] == {"image is unreadable": 1, "image cannot be decoded": 1}
    assert train["rows"]["bad"] == report["bad_rows"] == 4 and train["rows"]["found"] == 12
    assert err == "error: data: 4 bad rows, expected none (data.strict: false skips them)\n"
    assert "1 x image is missing" in out and "train.jsonl:6, split 'train', row 'row-5'" in out
    assert report["steps"]["batches_per_epoch"] == 3, "the nine rows that can be used"


def test_bad_rows_that_may_be_skipped(check, bad_set):
    path, source = bad_set
    report, error = check(path=path, train=[TrainSource(**source)], strict=False)
    assert report["bad_rows"] == 4 and error is None
    report, _ = check(path=path, train=[TrainSource(**source)], strict=False, decode=1)
    images = report["splits"]["train"]["images"]
    assert images["faults"] == {"image is unreadable": 1} and images["decoded_rows"] == 1, "headers are always read"


def test_rows_longer_than_max_length(check):
    shortest = check()[0]["splits"]["train"]["tokens"]["min"]
    report, _ = check(max_length=shortest, group_by_length=True)
    rows = report["splits"]["train"]["rows"]
    assert 0 < rows["longer_than_max_length"] < 16 and rows["used"] + rows["longer_than_max_length"] == 16
    report, error = check(max_length=20)
    assert report["splits"]["train"]["rows"]["used"] == 0 and "steps" not in report
    assert error == "data: train: no row can be used"


def test_a_split_that_a_fit_would_miss(check, tmp_path):
    folder = write_split(tmp_path / "part", "train", [make_row(0), make_row(1)])
    report, error = check(path=str(folder))
    assert error == f"data: test: {folder}: there is no split 'test'; found: train"
    assert list(report["splits"]) == ["train", "calibration"], "taken from train"
    assert check(path=str(folder), decode=-1)[1] == "--decode and --samples are -1 and 0, expected 0 or more"


def test_what_else_the_command_line_says(config, capsys):
    for words in (["data"], ["data", "check", "--nonsense", "1"]):
        assert main([*words, "--config", str(config)]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1
    assert as_subcommand(["data", "check", "--probe", "--json", "a"]) == ["data_check", "--probe=true", "--json", "a"]
    assert as_subcommand(["data", "check", "--probe", "false"]) == ["data_check", "--probe", "false"]
    assert as_subcommand(["fit", "--probe"]) == ["fit", "--probe"]


def test_a_mixture_in_a_configuration_trains(config, questions, tmp_path, capsys):
    """Parsed, run, recorded; and another mixture is another training."""
    sections = yaml.safe_load(config.read_text())
    talk = [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Yes."}]
    (tmp_path / "talk.jsonl").write_text(json.dumps({"id": "t", "conversations": talk}) + "\n")
    sources = [{"path": str(questions)}, {"path": str(tmp_path / "talk.jsonl"), "weight": 4}]
    sections["data"] |= {"train": sources, "group_by_length": True, "max_pixels": 5000, "strict": False}
    sections["model"] |= {"pruning": None}
    config.write_text(yaml.safe_dump(sections))
    assert main(["fit", "--config", str(config)]) == 0
    recorded = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert [source["weight"] for source in recorded["data"]["train"]] == [1.0, 4.0]
    run = RunFolder(tmp_path / "run")
    run.check(recorded | {"data": recorded["data"] | {"strict": True}})
    for key, value in {"group_by_length": False, "train": None}.items():
        with pytest.raises(UserError, match=rf"holds another run: data.{key} is"):
            run.check(recorded | {"data": recorded["data"] | {key: value}})


# -- the formulas -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("rows", "world", "settings", "expected"),
    [
        (100, 1, {"max_steps": 50}, (13, 13, 50)),
        (100, 2, {"max_epochs": 3}, (7, 7, 21)),
        (101, 2, {"max_epochs": 2, "accumulate_grad_batches": 4}, (7, 2, 4)),
        (100, 1, {"max_steps": 9, "max_epochs": 1}, (13, 13, 9)),
        (100, 1, {"max_epochs": 1, "limit_train_batches": 5}, (5, 5, 5)),
        (100, 1, {"max_epochs": 1, "limit_train_batches": 0.5}, (6, 6, 6)),
        (100, 1, {}, (13, 13, None)),
    ],
)
def test_steps(rows, world, settings, expected):
    found = training_steps(rows, 8, world, settings)
    assert (found["batches_per_epoch"], found["steps_per_epoch"], found["steps"]) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, max(1, torch.cuda.device_count())),
        ({"devices": 4, "num_nodes": 2}, 8),
        ({"devices": [0, 3]}, 2),
        ({"devices": "3"}, 3),
        ({"devices": -1, "accelerator": "cpu"}, 1),
    ],
)
def test_processes(settings, expected):
    assert processes(settings) == expected


def test_histogram():
    found = histogram(np.array([3, 3, 4, 25]))
    assert sum(found["counts"]) == 4 and found["counts"][0] == 3 and found["edges"][0] == 3
    assert (found["min"], found["mean"], found["median"], found["max"], found["sum"]) == (3, 8.75, 3.5, 25, 35)
    assert histogram(np.array([7, 7]))["counts"] == [2] and histogram(np.array([], int))["counts"] == []
    assert spread(10, 3) == [0, 4, 9] and spread(2, 5) == [0, 1] and spread(0, 3) == []


def test_padding_of_batches():
    lengths = Lengths(np.array([10, 20, 33, 16], np.int32), np.array([4, 8, 8, 4], np.int32), [])
    found = batch_tokens(lengths, np.array([0, 1, 2, 3, 0]), 2)
    assert found["largest_batch"] == {"tokens": 49, "visual_tokens": 12, "padded": 96}
    assert found["padding"] == pytest.approx(1 - 89 / (64 + 96 + 16)) and found["tokens"] == 89


def test_activations_of_a_plan():
    dims = ModelDims(layers=4, hidden=32, intermediate=64, heads=4, kv_heads=2, head_dim=8)
    dense = activation_bytes(dims, None, 100, 80, 2, False)
    assert dense == 4 * 100 * ((4 * 32 + 2 * 8 * 6 + 4 * 64) * 2 + 2 * 32 * 4)
    assert activation_bytes(dims, PruningPlan.dense(dims), 100, 80, 2, False) == dense
    heads, channels = torch.ones(4, 4, dtype=torch.bool), torch.ones(4, 64, dtype=torch.bool)
    heads[2:], channels[2:] = False, False
    half = activation_bytes(dims, PruningPlan(dims, heads, channels, None, 2), 100, 80, 2, False)
    assert half == dense // 2 + activation_bytes(dims, None, 20, 0, 2, False) // 2, (
        "visual tokens in half of the layers"
    )
    assert activation_bytes(dims, None, 100, 80, 2, True) == 4 * 100 * 32 * 2 + dense // 4
