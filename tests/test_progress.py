"""What a progress bar shows, on a terminal and elsewhere."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from yopo_train.pipeline.progress import StageProgress
from yopo_train.progress import PLAIN_EVERY_S, Bar


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line_now_and_then_with_rate_and_remaining_time(capsys):
    clock = Clock()
    bar = Bar("train", "steps", total=200, done=40, clock=clock)
    for step in range(41, 201):
        clock.now += PLAIN_EVERY_S / 32
        bar.advance_to(step, "loss 0.500")
    bar.stop()
    assert capsys.readouterr().out.splitlines() == [
        f"train: {step}/200 steps, 2.1 steps/s, {left} s left, loss 0.500"
        for step, left in ((72, 60), (104, 45), (136, 30), (168, 15))
    ]


def test_slow_steps_are_given_in_seconds(capsys):
    clock = Clock()
    bar = Bar("calibrate", "batches", total=3, done=0, clock=clock)
    clock.now += 30
    bar.advance_to(1, "")
    assert capsys.readouterr().out == "calibrate: 1/3 batches, 30.0 s each, 60 s left\n"


def test_a_terminal_has_a_bar_that_an_error_ends():
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, width=100)
    with pytest.raises(ZeroDivisionError), Bar("measure", "turns", 4, console=console, clock=Clock()) as bar:
        bar.advance()
        bar.advance()
        raise ZeroDivisionError
    assert not bar.live.live.is_started
    assert "measure" in terminal.getvalue() and "2/4" in terminal.getvalue()


def test_a_stage_shows_optimizer_steps_and_the_loss_under_its_headline(capsys, monkeypatch):
    monkeypatch.setattr("yopo_train.progress.PLAIN_EVERY_S", 0.0)
    trainer = SimpleNamespace(estimated_stepping_batches=3, global_step=0)
    stage = StageProgress("train", lambda: "loss 0.500, 20 tokens/s")
    stage.on_train_start(trainer)
    trainer.global_step = 1
    stage.on_train_batch_end(trainer)
    stage.teardown()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("      train: 1/3 steps, ") and line.endswith(" s left, loss 0.500, 20 tokens/s")
