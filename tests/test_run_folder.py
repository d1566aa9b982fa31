"""Files that are whole or not there, and the rule which folders may be continued."""

import copy
import os
import subprocess

import pytest
from safetensors import SafetensorError

from yopo_train.errors import UserError
from yopo_train.run_folder import RunFolder, new_folder, write_text
from yopo_train.run_keys import flatten

CONFIG = {
    "seed_everything": 0,
    "run_dir": "run",
    "model": {"base": "m", "pruning": {"preset": "paper-25"}, "lora": {"r": 4}, "gradient_checkpointing": False},
    "data": {"path": "d", "num_workers": 0},
    "trainer": {"max_steps": 3, "log_every_n_steps": 5},
}
OUTPUTS = {
    "nothing": [],
    "scores": ["scores.safetensors"],
    "plan": ["scores.safetensors", "plan.safetensors"],
    "training": ["scores.safetensors", "plan.safetensors", "checkpoints"],
}


def with_change(key: str, value: object) -> dict:
    changed = copy.deepcopy(CONFIG)
    *outer, last = key.split(".")
    place = changed
    for name in outer:
        place = place[name]
    place[last] = value
    return changed


def folder_with(path, outputs: list[str]) -> RunFolder:
    run = RunFolder(path / "run")
    run.claim(CONFIG, "yopo-train fit --config x.yaml")
    for name in outputs:
        (run.path / name).mkdir()
    return run


# key -> the first output from which on it counts
COUNTS_FROM = {
    "data.path": "scores",
    "seed_everything": "scores",
    "model.base": "scores",
    "trainer.precision": "scores",
    "model.pruning": "plan",
    "model.lora.r": "training",
    "trainer.max_steps": "training",
    "trainer.gradient_clip_algorithm": "training",
    "model.save_dtype": "training",
    "data.batch_size": "training",  # may be lowered after scores, plan and the base's answers are there
    "data.max_length": "training",
    "data.train_limit": "training",
    "data.num_workers": None,
    "data.eval_batch_size": None,
    "model.gradient_checkpointing": None,
    "trainer.log_every_n_steps": None,
    "run_dir": None,
}


@pytest.mark.parametrize("there", OUTPUTS)
@pytest.mark.parametrize("key", COUNTS_FROM)
def test_a_key_counts_from_the_stage_on_that_uses_it(key, there, tmp_path):
    run = folder_with(tmp_path, OUTPUTS[there])
    run.check(copy.deepcopy(CONFIG))
    stages = list(OUTPUTS)
    first = COUNTS_FROM[key]
    if first is not None and stages.index(there) >= stages.index(first):
        with pytest.raises(UserError, match=key.replace(".", r"\.")):
            run.check(with_change(key, 77))
    else:
        run.check(with_change(key, 77))


def test_an_option_that_an_older_version_did_not_have_was_off(tmp_path):
    run = folder_with(tmp_path, OUTPUTS["training"])
    run.check(with_change("data.letterbox", False))
    with pytest.raises(UserError, match=r"data\.letterbox is None there and True here"):
        run.check(with_change("data.letterbox", True))


def test_a_section_that_becomes_null_is_another_run(tmp_path):
    run = folder_with(tmp_path, OUTPUTS["plan"])
    with pytest.raises(UserError, match=r"model\.pruning"):
        run.check(with_change("model.pruning", None))


def test_the_most_important_difference_is_named(tmp_path):
    run = folder_with(tmp_path, OUTPUTS["training"])
    changed = with_change("trainer.max_steps", 9)
    changed["data"] = {"path": "elsewhere", "num_workers": 0, "batch_size": 1}
    with pytest.raises(UserError, match=r"data\.path is 'd' there and 'elsewhere' here"):
        run.check(changed)


@pytest.mark.parametrize("limit", ["limit_test_batches", "fast_dev_run"])
def test_the_size_of_test_batches_counts_where_their_number_is_limited(limit, tmp_path):
    run, config = RunFolder(tmp_path / "run"), with_change(f"trainer.{limit}", 2)
    run.claim(config, "yopo-train fit --config x.yaml")
    run.record("test.base", {"accuracy": 1.0})
    config["data"]["eval_batch_size"] = 7
    with pytest.raises(UserError, match=r"data\.eval_batch_size"):
        run.check(config)


def test_a_new_folder_is_not_made_by_looking(tmp_path):
    RunFolder(tmp_path / "run").check(CONFIG)
    assert not (tmp_path / "run").exists()


def test_damaged_files_are_named(tmp_path):
    run = folder_with(tmp_path, [])
    run.results_file.write_text("{")
    with pytest.raises(UserError, match=r"results\.json"):
        run.results()
    run.config.write_text("a: [")
    with pytest.raises(UserError, match=r"config\.yaml"):
        run.check(CONFIG)


def test_results_are_added_section_by_section(tmp_path):
    run = RunFolder(tmp_path)
    assert run.results() == {}
    run.record("test.base", {"accuracy": 1.0})
    run.record("test.pruned", {"accuracy": 0.5})
    run.record("train", 3)
    assert run.results() == {"test": {"base": {"accuracy": 1.0}, "pruned": {"accuracy": 0.5}}, "train": 3}


def test_results_are_forgotten_section_by_section(tmp_path):
    run = RunFolder(tmp_path)
    run.forget("test.base", "bench")
    assert not run.results_file.exists()
    run.record("test.base", {"accuracy": 1.0})
    run.record("test.pruned", {"accuracy": 0.5})
    run.record("bench", {"speedup": 2.0})
    run.forget("test.pruned", "validate.pruned", "bench")
    assert run.results() == {"test": {"base": {"accuracy": 1.0}}}


def test_a_text_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    write_text(tmp_path / "file", "old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match="No space left"):
        write_text(tmp_path / "file", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with new_folder(tmp_path / "adapter") as folder:
        (folder / "first").write_text("1")
        assert not (tmp_path / "adapter").exists()
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "adapter") as folder:
        (folder / "second").write_text("2")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    assert [path.name for path in (tmp_path / "adapter").iterdir()] == ["first"]
    with new_folder(tmp_path / "adapter") as folder:
        (folder / "third").write_text("3")
    assert [path.name for path in (tmp_path / "adapter").iterdir()] == ["third"]


def test_the_rest_of_a_killed_process_of_the_same_number_is_no_obstacle(tmp_path):
    rest = tmp_path / f".adapter.{os.getpid()}.tmp"
    rest.mkdir()
    (rest / "half").write_text("0")
    with new_folder(tmp_path / "adapter") as folder:
        (folder / "whole").write_text("1")
    assert [path.name for path in (tmp_path / "adapter").iterdir()] == ["whole"]
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_what_killed_processes_left_is_no_obstacle_and_is_removed(tmp_path):
    process = subprocess.Popen(["true"])
    process.wait()
    gone, run = process.pid, RunFolder(tmp_path / "run")
    run.path.mkdir()
    (run.path / f".config.yaml.{gone}.tmp").write_text("half")
    run.check(CONFIG)  # killed while the first file was written: still a new folder
    (run.path / f".adapter.{gone}.tmp").mkdir()
    run.predictions.mkdir()
    (run.predictions / f".base.jsonl.{gone}.tmp").write_text("half")
    kept = {f".plan.safetensors.{os.getpid()}.tmp", ".mine.tmp"}
    for name in kept:
        (run.path / name).write_text("half")
    run.claim(CONFIG, "yopo-train fit")
    assert {file.name for file in run.path.rglob("*")} == {"config.yaml", "predictions", *kept}
    run.config.unlink()
    with pytest.raises(UserError, match=r"holds other files and no config\.yaml"):
        run.check(CONFIG)


@pytest.mark.parametrize("error", [OSError(28, "No space left"), SafetensorError("I/O error: No space left")])
def test_a_full_disk_is_one_line_and_leaves_the_old_folder(error, tmp_path):
    (tmp_path / "adapter").mkdir()
    expected = r"adapter: cannot be written: .*No space left"
    with pytest.raises(UserError, match=expected), new_folder(tmp_path / "adapter"):
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_flatten():
    assert flatten({"a": {"b": 1, "c": {}}, "d": [2]}) == {"a.b": 1, "a.c": {}, "d": [2]}
