"""How a training ends: with signals in its last moments, on a full disk, and before what it made is written."""

import errno
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fake_slurm import in_slurm
from lightning.pytorch.utilities.exceptions import SIGTERMException
from toy_resume import At, course, train, weights
from written import adapter, losses, step_of

from yopo_train.cli import main
from yopo_train.pipeline import stages
from yopo_train.pipeline.signals import terminable
from yopo_train.recovery import YopoModule
from yopo_train.run_folder import RunFolder

TESTS = Path(__file__).parents[1]
STEPS = 3


def send(number: int) -> None:
    os.kill(os.getpid(), number)


# -- the command ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def fit(tiny_vlm, questions, tmp_path_factory) -> Callable[..., int]:
    """The command on a small configuration; gives its exit code."""
    file = tmp_path_factory.mktemp("fit") / "config.yaml"
    data = {"path": str(questions), "train_limit": 12, "batch_size": 4, "eval_batch_size": 4, "test_limit": 1}
    sections = {
        "model": {"base": str(tiny_vlm), "lora": {"r": 4, "lora_dropout": 0.1}, "max_new_tokens": 2},
        "data": data,
        "checkpoint": {"every_n_steps": 2},
        "trainer": {"max_epochs": 1, "limit_val_batches": 0, "log_every_n_steps": 1, "accelerator": "cpu"},
    }
    file.write_text(yaml.safe_dump(sections))
    return lambda run: main(["fit", f"--config={file}", f"--run_dir={run}"])


@pytest.fixture(scope="module")
def undisturbed(fit, tmp_path_factory) -> Path:
    """A run folder that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert fit(folder) == 0 and len(losses(folder)) == STEPS
    return folder


def at_step(step: int, work: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    """Do something in the middle of a training step."""
    training_step = YopoModule.training_step

    def watched(self: YopoModule, batch: Any, batch_idx: int) -> Any:
        if self.global_step == step:
            work()
        return training_step(self, batch, batch_idx)

    patch.setattr(YopoModule, "training_step", watched)


def in_save(step: int, work: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    """Do something once, in the middle of writing the checkpoint of a step."""
    save, done = torch.save, []

    def watched(content: Any, file: Any, **options: Any) -> None:
        if isinstance(content, dict) and content.get("global_step") == step and not done:
            done.append(step)
            file.write(b"half")
            work()
            file.seek(0)
        save(content, file, **options)

    patch.setattr(torch, "save", watched)


def test_sigterm_while_a_requeued_jobs_checkpoint_is_written(fit, undisturbed, tmp_path, capsys):
    """SLURM ends a job that is queued again, soon, and with SIGTERM; the step is done and saved, and no other begun."""
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        in_slurm(tmp_path, patch)
        at_step(0, lambda: send(signal.SIGUSR1), patch)
        in_save(1, lambda: send(signal.SIGTERM), patch)
        assert fit(run) == 143
    assert capsys.readouterr().out.splitlines()[-1] == "terminated; the same command goes on from here"
    assert (tmp_path / "scontrol.log").read_text() == "requeue 4711\n"
    assert step_of(run) == 1 and [file.name for file in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    assert fit(run) == 0
    assert adapter(run) == adapter(undisturbed) and losses(run) == losses(undisturbed)


def test_an_epoch_that_dies_before_its_adapter_is_written(fit, undisturbed, tmp_path, monkeypatch):
    """The same command writes it, without another step."""
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(stages, "save_adapter", lambda *args: 1 // 0)
        fit(run)
    assert step_of(run) == STEPS and not (run / "adapter").exists()
    monkeypatch.setattr(YopoModule, "training_step", lambda *args: pytest.fail("trains again"))
    assert fit(run) == 0
    assert adapter(run) == adapter(undisturbed) and losses(run) == losses(undisturbed)


def test_a_disk_without_room_for_the_last_checkpoint_does_not_cost_the_adapter(fit, undisturbed, tmp_path, monkeypatch):
    """It is smaller: a checkpoint holds the optimizer too."""

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    in_save(STEPS, full, monkeypatch)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        assert fit(tmp_path / "run") == 0
    said = [str(warning.message) for warning in found if "no checkpoint" in str(warning.message)]
    assert len(said) == 1 and said[0].startswith(f"no checkpoint of step {STEPS}: ")
    assert said[0].endswith("last.ckpt: the checkpoint cannot be written: No space left on device")
    assert step_of(tmp_path / "run") == 2
    assert adapter(tmp_path / "run") == adapter(undisturbed)


# -- the last step ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Run folder of an undisturbed training, with a validation after its last step."""
    folder = tmp_path_factory.mktemp("whole")
    keep(folder, train(folder, max_steps=6))
    return folder


def keep(folder: Path, module: YopoModule) -> None:
    torch.save(weights(module), folder / "weights.pt")


def assert_goes_on(folder: Path, whole: Path) -> None:
    """It is the undisturbed one, with no other step."""
    module = train(folder, At("on_train_batch_start", 6, lambda: pytest.fail("trains again")), max_steps=6, every=None)
    expected = torch.load(whole / "weights.pt", weights_only=True)
    assert all(torch.equal(weight, expected[name]) for name, weight in weights(module).items())
    assert course(folder) == course(whole)


@pytest.mark.parametrize("every", [100, None])
@pytest.mark.parametrize(
    ("hook", "step"),
    [("on_after_backward", 5), ("on_validation_batch_start", 6), ("on_train_end", 6), ("in a save", 6)],
)
def test_sigterm_in_the_last_moments(hook, step, every, whole, tmp_path, monkeypatch):
    """The last step, the validation that follows it, and the writing of its checkpoint."""
    told = At("on_train_batch_start" if hook == "in a save" else hook, step, lambda: send(signal.SIGTERM))
    if hook == "in a save":
        if every is None:
            pytest.skip("none is written there")
        in_save(6, lambda: send(signal.SIGTERM), monkeypatch)
    with terminable(), pytest.raises(SIGTERMException):
        train(tmp_path, told, max_steps=6, every=every)
    monkeypatch.undo()
    assert step_of(tmp_path) == 6
    assert_goes_on(tmp_path, whole)


def test_sigterm_in_the_validation_at_the_end_of_an_epoch(tmp_path):
    """It is run again, and logged as that epoch's."""
    train(tmp_path / "whole", val_check_interval=5)
    with pytest.raises(SIGTERMException):
        told = At("on_validation_batch_start", 5, lambda: send(signal.SIGTERM))
        train(tmp_path / "run", told, val_check_interval=5)
    assert step_of(tmp_path / "run") == 5
    train(tmp_path / "run", val_check_interval=5)
    assert course(tmp_path / "run") == course(tmp_path / "whole")


@pytest.mark.parametrize("limit_val_batches", [2, 0])
def test_a_slurm_job_whose_time_is_over_in_its_last_step(limit_val_batches, whole, tmp_path, monkeypatch):
    """It is saved before the validation, and queued again; what is left of its time is used."""
    in_slurm(tmp_path, monkeypatch)
    log, run = tmp_path / "scontrol.log", tmp_path / "run"
    seen = At("on_validation_epoch_end", 6, lambda: seen_steps.append((step_of(run), log.read_text())))
    told, seen_steps = At("on_after_backward", 5, lambda: send(signal.SIGUSR1)), []
    with terminable():
        train(run, told, seen, max_steps=6, every=None, limit_val_batches=limit_val_batches)
    assert seen_steps == [(6, "requeue 4711\n")] * bool(limit_val_batches)
    assert log.read_text() == "requeue 4711\n" and step_of(run) == 6
    if limit_val_batches:
        assert course(run) == course(whole)
        assert_goes_on(run, whole)


def test_a_worker_that_is_stuck_in_c_code_ends_with_the_process(tmp_path):
    """It heeds no SIGTERM, which is what Python sends at its end, and would wait for."""
    paths = {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TESTS / "stuck_worker.py"), str(tmp_path)]
    done = subprocess.run(command, env=os.environ | paths, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


# -- other people's signals -------------------------------------------------------------------------------------------
def test_a_users_own_handler_of_slurms_signal_is_left_alone(tmp_path):
    """Outside of SLURM it is no signal of ours."""
    heard = []
    former = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    mine = signal.getsignal(signal.SIGUSR1)
    try:
        told = At("on_after_backward", 1, lambda: (send(signal.SIGUSR1), heard.append("at once")))
        with terminable():
            train(tmp_path, told, max_steps=3, limit_val_batches=0, every=None)
        assert heard == [signal.SIGUSR1, "at once"]
        assert signal.getsignal(signal.SIGUSR1) is mine
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert not RunFolder(tmp_path).checkpoints.exists()
