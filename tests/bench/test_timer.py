"""The timer: order of the turns, what counts, and the arithmetic. No time is asserted."""

import torch

from yopo_train.bench.timer import Contender, Stopwatch, Timing, interleave, turns

CPU = torch.device("cpu")


def test_median_and_90th_percentile():
    assert Timing.of([9.0, 1, 2, 3, 4, 5, 6, 7, 8, 10]) == Timing(median=5.5, p90=9.0)
    assert Timing.of([3.0]) == Timing(3.0, 3.0)


def test_laps_their_total_and_a_typical_one():
    seconds = iter([10.0, 10.5, 12.5, 13.5, 15.0, 25.0])
    calls = []
    watch = Stopwatch(CPU, clock=lambda: next(seconds))
    watch.start()
    watch.lap("vision")
    watch.lap("prefill")
    watch.total("first_token")
    watch.typical("decode", lambda: calls.append(1), 3)
    assert len(calls) == 3
    assert watch.laps == {"vision": 500, "prefill": 2000, "first_token": 2500, "decode": 1500}


def test_contenders_take_turns_and_only_the_second_run_of_a_late_round_counts():
    log, calls = [], iter(range(100))

    def contender(name: str) -> Contender:
        def measure(watch: Stopwatch) -> None:
            log.append(name)
            watch.laps["lap"] = float(next(calls))

        return Contender(lambda: log.append(f"prepare {name}"), [measure])

    ticks = []
    found = interleave({"a": contender("a"), "b": contender("b")}, CPU, 2, 1, lambda: ticks.append(1))
    assert log == ["prepare a", "a", "a", "prepare b", "b", "b"] * 3
    # calls 0 to 3 are the warm-up round; of the others each second one is timed
    assert found == {"a": {"lap": Timing(7.0, 9.0)}, "b": {"lap": Timing(9.0, 11.0)}}
    assert len(ticks) == turns(2, repeats=2, warmup=1) == 6


def test_a_slow_measure_is_run_once_a_round():
    log = []

    def measure(watch: Stopwatch) -> None:
        log.append("run")
        watch.laps["lap"] = 1.0

    interleave({"a": Contender(lambda: log.append("prepare"), [measure])}, CPU, 2, 1, settle_below=0.0)
    assert log == ["prepare", "run", "run", "prepare", "run", "prepare", "run"]


def test_every_measure_of_a_contender_is_kept():
    def measure(watch: Stopwatch, name: str) -> None:
        watch.laps[name] = 1.0

    both = [lambda watch: measure(watch, "x"), lambda watch: measure(watch, "y")]
    assert interleave({"a": Contender(lambda: None, both)}, CPU, 1) == {
        "a": {"x": Timing(1.0, 1.0), "y": Timing(1.0, 1.0)}
    }
