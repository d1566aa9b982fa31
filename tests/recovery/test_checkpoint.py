"""The file of a checkpoint: whole or not at all, small, and when it is written."""

import multiprocessing
import os
import random
import signal
from datetime import timedelta

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from toy_resume import At, toy_module, train

from yopo_train.cli import main
from yopo_train.errors import UserError
from yopo_train.pipeline.checkpoints import CheckpointOptions, check_checkpoint, checkpoint_to_continue
from yopo_train.recovery import YopoModule
from yopo_train.recovery.checkpoint_file import WholeFile
from yopo_train.recovery.checkpoint_random import packed, random_state, set_random_state, unpacked
from yopo_train.run_folder import RunFolder


# -- the file ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("fails", ["torch.save", "os.fsync", "os.replace"])
def test_a_checkpoint_that_cannot_be_written_leaves_the_former_one(fails, tmp_path, monkeypatch):
    path = tmp_path / "checkpoints" / "last.ckpt"
    WholeFile().save_checkpoint({"step": torch.tensor(1)}, path)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fails, full)
    with pytest.raises(UserError, match=r"last\.ckpt: the checkpoint cannot be written: No space left on device$"):
        WholeFile().save_checkpoint({"step": torch.tensor(2)}, path)
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
    assert WholeFile().load_checkpoint(path)["step"] == 1


@pytest.mark.parametrize("content", [b"", b"half", None], ids=["empty", "text", "truncated"])
def test_a_damaged_checkpoint_is_named(content, tmp_path):
    path = tmp_path / "bad.ckpt"
    if content is None:
        torch.save({"weight": torch.zeros(1000)}, path)
        content = path.read_bytes()[:1500]
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.ckpt: not a checkpoint that can be read: .") as error:
        WholeFile().load_checkpoint(path)
    assert "\n" not in str(error.value)


def test_the_random_state_comes_back_from_a_file(tmp_path):
    device = torch.device("cpu")

    def draw() -> list:
        return [random.random(), random.gauss(), float(np.random.rand()), np.random.randn(), torch.rand(3).tolist()]

    random.gauss(), np.random.randn()  # both keep every second number for the next call
    torch.save(packed(random_state(device)), tmp_path / "state")
    expected = draw()
    set_random_state(unpacked(torch.load(tmp_path / "state", weights_only=True)), device)
    assert draw() == expected


def test_a_checkpoint_holds_the_adapter_and_its_optimizer_and_little_else(tmp_path):
    module = toy_module(r=64)
    train(tmp_path, module=module, max_steps=1, every=1)
    path = RunFolder(tmp_path).last_checkpoint
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["state_dict"].keys() == module.trainable().keys()
    held = list(checkpoint["state_dict"].values())
    held += [value for state in checkpoint["optimizer_states"][0]["state"].values() for value in state.values()]
    size = sum(tensor.nbytes for tensor in held)
    assert size >= 3 * sum(weight.nbytes for weight in module.trainable().values())
    assert path.stat().st_size <= 1.05 * size


# -- when -------------------------------------------------------------------------------------------------------------
class Writes(Callback):
    """Notes the step of each ``last.ckpt`` that it finds."""

    def __init__(self, folder) -> None:
        self.path, self.steps = RunFolder(folder).last_checkpoint, []

    def on_after_backward(self, *args) -> None:
        if self.path.is_file():
            step = torch.load(self.path, weights_only=True)["global_step"]
            if step not in self.steps:
                self.steps.append(step)


@pytest.mark.parametrize(
    ("every", "minutes", "expected", "last"),
    [(3, None, [3, 6], 8), (4, None, [4], 8), (None, None, [], None), (None, 1e-9, [1, 2, 3, 4, 5, 6, 7], 8)],
    ids=["steps", "multiples", "never", "minutes"],
)
def test_by_steps_and_by_minutes(every, minutes, expected, last, tmp_path):
    writes = Writes(tmp_path)
    train(tmp_path, writes, every=every, minutes=minutes, limit_val_batches=0)
    assert writes.steps == expected
    assert writes.path.is_file() is (last is not None)
    assert last is None or torch.load(writes.path, weights_only=True)["global_step"] == last


def test_none_is_written_where_checkpoints_are_off(tmp_path):
    train(tmp_path, enable_checkpointing=False, max_steps=2)
    assert not RunFolder(tmp_path).checkpoints.exists()


def test_a_users_checkpoint_by_time_goes_into_the_run_folder(tmp_path):
    with pytest.raises(ZeroDivisionError):  # a resumed one too
        train(tmp_path, At("on_before_backward", 2, lambda: 1 // 0), max_steps=3, limit_val_batches=0)
    train(tmp_path, ModelCheckpoint(filename="now", train_time_interval=timedelta(0)), max_steps=3, limit_val_batches=0)
    assert (RunFolder(tmp_path).checkpoints / "now.ckpt").is_file()


@pytest.mark.parametrize(("name", "value"), [("every_n_steps", 0), ("every_n_minutes", -1.0)])
def test_options_are_checked(name, value):
    with pytest.raises(UserError, match=rf"^checkpoint\.{name} is {value}, expected a number > 0, or null$"):
        CheckpointOptions(**{name: value})


def test_where_training_goes_on_from(tmp_path):
    run = RunFolder(tmp_path)
    assert checkpoint_to_continue(run, "last") is None
    run.checkpoints.mkdir()
    run.last_checkpoint.touch()
    assert checkpoint_to_continue(run, "last") == run.last_checkpoint
    assert checkpoint_to_continue(run, "none") is None
    check_checkpoint(run, str(run.last_checkpoint))
    with pytest.raises(UserError, match=r"^--ckpt_path is best.ckpt, expected last, none or a checkpoint file$"):
        check_checkpoint(run, "best.ckpt")
    run.adapter.mkdir()
    check_checkpoint(run, "last")
    with pytest.raises(UserError, match=r"--ckpt_path is none, but the run is trained already: .*adapter"):
        check_checkpoint(run, "none")


# -- the command ------------------------------------------------------------------------------------------------------
def test_sigterm_saves_and_the_same_command_goes_on(config, tmp_path, monkeypatch, capsys):
    options = ["--config", str(config), "--model.pruning=null", "--data.test_limit=1", "--trainer.max_steps=3"]
    step = YopoModule.training_step

    def terminated(self, batch, batch_idx):
        if self.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, batch_idx)

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(YopoModule, "training_step", terminated)
    assert main(["fit", *options]) == 143
    assert capsys.readouterr().out.splitlines()[-1] == "terminated; the same command goes on from here"
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 2

    monkeypatch.setattr(YopoModule, "training_step", step)
    best = "{class_path: ModelCheckpoint, init_args: {monitor: val/accuracy, mode: max, filename: best}}"
    validated = [f"--trainer.callbacks=[{best}]", "--trainer.limit_val_batches=1", "--trainer.val_check_interval=1"]
    assert main(["fit", *options, *validated, "--ckpt_path", str(checkpoint)]) == 0
    assert f"continued from {checkpoint}" in capsys.readouterr().out
    assert (checkpoint.parent / "best.ckpt").is_file()
    assert (tmp_path / "run" / "plots" / "training.png").is_file()


def test_what_is_sent_to_all_processes_spares_those_that_load_data(tmp_path):
    """A terminal's ctrl-C, SLURM's SIGTERM: without them the training could not go on to where it saves."""
    loaders = []

    def send() -> None:
        loaders.extend(multiprocessing.active_children())
        assert loaders and os.getpgrp() not in [os.getpgid(process.pid) for process in loaders]
        for process in loaders:
            os.kill(process.pid, signal.SIGTERM)

    train(tmp_path, At("on_train_batch_start", 1, send), workers=2, max_steps=5, limit_val_batches=0)
    for process in loaders:
        process.join(10)
        assert not process.is_alive()


def test_a_second_ctrl_c_does_not_wait_for_the_step(tmp_path):
    pressed = []

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        pressed.append(1)
        os.kill(os.getpid(), signal.SIGINT)
        pressed.append(2)

    with pytest.raises(SystemExit):
        train(tmp_path, At("on_before_backward", 2, twice))
    assert pressed == [1]
    assert torch.load(RunFolder(tmp_path).last_checkpoint, weights_only=True)["global_step"] == 2
