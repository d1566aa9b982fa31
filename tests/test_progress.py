"""What a stage shows where there is no terminal."""

from yopo_train.pipeline.progress import PLAIN_EVERY_S, Bar


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
        f"      train: {step}/200 steps, 2.1 steps/s, {left} s left, loss 0.500"
        for step, left in ((72, 60), (104, 45), (136, 30), (168, 15))
    ]


def test_slow_steps_are_given_in_seconds(capsys):
    clock = Clock()
    bar = Bar("calibrate", "batches", total=3, done=0, clock=clock)
    clock.now += 30
    bar.advance_to(1, "")
    assert capsys.readouterr().out == "      calibrate: 1/3 batches, 30.0 s each, 60 s left\n"
