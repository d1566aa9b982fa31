"""A training that is interrupted and goes on is the training that nobody interrupts, bit for bit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import killed_runs
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from toy_resume import At, course, logged, toy_module, train, weights
from written import step_of

from yopo_train.errors import UserError
from yopo_train.run_folder import RunFolder


def raising(error: type[BaseException]):
    def work() -> None:
        raise error("on purpose")

    return work


def sending(number: int):
    return lambda: os.kill(os.getpid(), number)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Run folder and weights of an undisturbed training, with and without accumulation."""
    found = {}
    for batches in (1, 3):
        folder = tmp_path_factory.mktemp("whole")
        found[batches] = folder, weights(train(folder, accumulate_grad_batches=batches, every=4))
    return found


def assert_same(folder: Path, module, expected) -> None:
    assert course(folder) == course(expected[0])
    for name, weight in weights(module).items():
        assert torch.equal(weight, expected[1][name]), name


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize(
    ("hook", "work", "error"),
    [
        ("on_before_backward", raising(ZeroDivisionError), ZeroDivisionError),  # random numbers are used already
        ("on_after_backward", sending(signal.SIGTERM), SIGTERMException),
        ("on_train_batch_start", sending(signal.SIGINT), SystemExit),  # what Lightning makes of ctrl-C
        ("on_validation_batch_start", sending(signal.SIGTERM), SIGTERMException),
    ],
    ids=["error", "SIGTERM", "ctrl-C", "SIGTERM in a validation"],
)
def test_an_interrupted_training_loses_nothing(hook, work, error, batches, whole, tmp_path):
    """In the middle of an epoch, of an accumulation, and of a validation, with dropout."""
    step = 3 if batches == 1 else 4
    if "validation" in hook:
        step = 6 if batches == 1 else 2
    with pytest.raises(error):
        train(tmp_path, At(hook, step, work), accumulate_grad_batches=batches)
    assert step <= step_of(tmp_path) <= step + 1
    assert_same(tmp_path, train(tmp_path, accumulate_grad_batches=batches), whole[batches])


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({"loss": "ce+kd", "optimizer": "muon"}, {}),
        ({}, {"max_steps": -1, "max_epochs": 2, "check_val_every_n_epoch": 1, "accumulate_grad_batches": 3}),
    ],
    ids=["teacher and muon", "epochs that end within an accumulation"],
)
def test_trainings_of_other_kinds_go_on_too(options, settings, tmp_path):
    whole = tmp_path / "whole", weights(train(tmp_path / "whole", module=toy_module(**options), **settings))
    run = tmp_path / "run"
    with pytest.raises(ZeroDivisionError):
        train(run, At("on_before_backward", 3, raising(ZeroDivisionError)), module=toy_module(**options), **settings)
    assert_same(run, train(run, module=toy_module(**options), **settings), whole)


def test_the_last_checkpoint_serves_when_an_update_is_interrupted(whole, tmp_path):
    """Weights may be half updated then."""
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, At("on_before_optimizer_step", 5, raising(ZeroDivisionError)), every=2)
    assert step_of(tmp_path) == 4
    assert_same(tmp_path, train(tmp_path), whole[1])


def test_checkpoints_of_users_are_exact_too(whole, tmp_path):
    """The best two by a score of the validation; one is written in the middle of an accumulation."""
    kept = ModelCheckpoint(monitor="val/score", mode="max", save_top_k=2, filename="best-{step}")
    often = ModelCheckpoint(filename="{step}", save_top_k=-1, every_n_train_steps=5)
    train(tmp_path, kept, often)
    best = sorted((tmp_path / "checkpoints").glob("best-*.ckpt"))
    assert len(best) == 2 and kept.best_model_path in map(str, best)
    other = tmp_path / "other"
    assert_same_from(best[0], other, whole)
    assert_same_from(tmp_path / "checkpoints" / "step=5.ckpt", tmp_path / "third", whole)


def assert_same_from(checkpoint: Path, folder: Path, whole) -> None:
    """Weights; and the lines that are logged from there on."""
    module = train(folder, ckpt_path=str(checkpoint))
    for name, weight in weights(module).items():
        assert torch.equal(weight, whole[1][1][name]), name
    lines = logged(folder, "train/loss", "train/grad_norm")
    assert lines and lines == logged(whole[1][0], "train/loss", "train/grad_norm")[-len(lines) :]


def test_a_training_does_not_depend_on_how_often_it_is_evaluated(whole, tmp_path):
    train(tmp_path, limit_val_batches=0)
    assert logged(tmp_path, "train/loss") == logged(whole[1][0], "train/loss")


def test_from_the_beginning_though_there_is_a_checkpoint(whole, tmp_path):
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, At("on_before_backward", 6, raising(ZeroDivisionError)))
    assert_same(tmp_path, train(tmp_path, ckpt_path="none"), whole[1])


@pytest.mark.parametrize(
    ("other", "culprit"),
    [
        ({"plan_seed": 1}, "made with plan"),
        ({"r": 4}, r"made with lora\.r '2', expected '4'"),
        ({"lora_alpha": 64}, r"made with lora\.lora_alpha '32', expected '64'"),
        ({"lr": 1e-3}, r"made with optimizer\.lr '0\.01', expected '0\.001'"),
        ({"tuning": "full"}, "made with tuning 'lora', expected 'full'"),
        ({"loss": "ce+kd"}, r"made with loss 'ce', expected 'ce\+kd'"),
        ({"quantization": "nf4"}, "made with quantization None, expected 'nf4'"),
    ],
)
def test_a_checkpoint_of_other_options_is_refused_by_the_first_difference(other, culprit, tmp_path, whole):
    with pytest.raises(UserError, match=culprit):
        train(tmp_path, module=toy_module(**other), ckpt_path=str(RunFolder(whole[1][0]).last_checkpoint))


@pytest.mark.parametrize(
    ("settings", "culprit"),
    [
        ({"max_steps": 9}, "trainer.max_steps 8, expected 9"),  # the cosine would be another one from there on
        ({"accumulate_grad_batches": 2}, "trainer.accumulate_grad_batches 1, expected 2"),
        ({"precision": "bf16-mixed"}, "trainer.precision 32-true, expected bf16-mixed"),
        ({"batch_size": 5}, "data.batch_size 2, expected 5"),
    ],
)
def test_a_checkpoint_of_another_course_is_refused_by_the_first_difference(settings, culprit, tmp_path, whole):
    with pytest.raises(UserError, match=f"the checkpoint was made with {culprit}$"):
        train(tmp_path, ckpt_path=str(RunFolder(whole[1][0]).last_checkpoint), **settings)
    assert not RunFolder(tmp_path).checkpoints.exists()


def test_a_fit_that_leaves_the_rest_of_its_schedule_to_another_one(tmp_path):
    whole = weights(train(tmp_path / "whole", module=toy_module(schedule_steps=8)))
    train(tmp_path / "run", module=toy_module(schedule_steps=8), max_steps=4, every=1)
    rest = train(tmp_path / "run", module=toy_module(schedule_steps=8))
    assert all(torch.equal(weight, whole[name]) for name, weight in weights(rest).items())


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (lambda state: state.update(processes=2), r"made by 2 processes, expected 1 \(trainer.devices times"),
        (None, "no random state in it"),
    ],
)
def test_a_checkpoint_that_cannot_go_on_exactly_is_refused(change, culprit, whole, tmp_path):
    checkpoint = torch.load(RunFolder(whole[1][0]).last_checkpoint, weights_only=True)
    if change is None:
        del checkpoint["yopo_resume"]
    else:
        change(checkpoint["yopo_resume"])
    torch.save(checkpoint, tmp_path / "changed.ckpt")
    with pytest.raises(UserError, match=culprit):
        train(tmp_path / "run", ckpt_path=str(tmp_path / "changed.ckpt"))


# -- SIGKILL ----------------------------------------------------------------------------------------------------------
JOBS = {
    "plain": {"options": {}},
    "accumulate": {"options": {"accumulate_grad_batches": 2, "max_steps": 6}},
    "workers": {"options": {"workers": 2}},
    "ddp": {"options": {}, "ranks": 2},
    "everything": {"options": {"accumulate_grad_batches": 2, "workers": 1}, "ranks": 2},
    "minutes": {"options": {"every": None, "minutes": 1e-3}, "ranks": 2},
    "four ranks": {"options": {"batch_size": 1}, "ranks": 4},
    "sigterm": {"options": {"accumulate_grad_batches": 2}, "ranks": 2, "signal": signal.SIGTERM},
}


@pytest.mark.parametrize(
    ("name", "kills"),
    [
        ("accumulate", 10),
        *(pytest.param(name, 10, marks=pytest.mark.slow) for name in JOBS if name != "accumulate"),
    ],
)
def test_a_training_killed_at_random_points_goes_on_as_if_nothing_was(name, kills, tmp_path):
    """With dropout, a checkpoint every 2 steps and validations: in the middle of epochs, updates and files."""
    script, job = Path(killed_runs.__file__), JOBS[name] | {"name": name, "kills": kills}
    command = [sys.executable, str(script), str(tmp_path), json.dumps(job)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / f"{name}.json").read_text())
    assert "codes" not in found, found["log"]
    assert len(found["kills"]) == kills and found["lines"] > 6
    assert any("last.ckpt" in left for _, _, left, _ in found["kills"]), "none was killed behind its first checkpoint"
    if name == "sigterm":  # one rank is told, both end
        assert [143, 143] in [codes for *_, codes in found["kills"]]
    assert found["wrong"] == []
