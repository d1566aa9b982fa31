"""How is it timed? Contenders in turns, in one process, round after round.

In a round each contender is made ready (its plan put on, untimed); then each of its measures runs once untimed, so that
allocator and caches settle after the change, and once timed. Where a run takes many seconds, nothing is left to settle,
and the untimed one is spared. The first rounds are thrown away. Whatever slows the machine down meets all contenders
alike.

The device is idle whenever the clock is read: nothing from before runs into a timed region, nothing in it is left over.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Milliseconds of the repeats: median and 90th percentile."""

    median: float
    p90: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Timing:
        """From one number a repeat."""
        place = math.ceil(0.9 * len(samples)) - 1
        return cls(statistics.median(samples), sorted(samples)[place])


class Stopwatch:
    """Laps of one run, in milliseconds.

    Parameters
    ----------
    device
        Waited for before each look at the clock.
    clock
        Seconds, for the tests.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self.device, self.clock = device, clock
        self.laps: dict[str, float] = {}

    def start(self) -> None:
        """Here the run begins."""
        self._started = self._last = self._now()

    def lap(self, name: str) -> None:
        """Keep the time since the last look."""
        now = self._now()
        self.laps[name], self._last = now - self._last, now

    def typical(self, name: str, work: Callable[[], None], times: int) -> None:
        """Keep the median time of several calls, in which a few that something else disturbs do not count."""
        passed = []
        for _ in range(times):
            work()
            self.lap(name)
            passed.append(self.laps[name])
        self.laps[name] = statistics.median(passed)

    def total(self, name: str) -> None:
        """Keep the time from the start to the last lap."""
        self.laps[name] = self._last - self._started

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return 1000 * self.clock()


Measure = Callable[[Stopwatch], None]
"""Runs something once and keeps its laps."""


@dataclass
class Contender:
    """One way to run the model: how to get there, and what is measured of it."""

    prepare: Callable[[], None]
    measures: list[Measure]


def interleave(
    contenders: dict[str, Contender],
    device: torch.device,
    repeats: int,
    warmup: int = 1,
    on_turn: Callable[[], None] = lambda: None,
    settle_below: float = 10.0,
) -> dict[str, dict[str, Timing]]:
    """Time all contenders.

    Parameters
    ----------
    contenders
        By name.
    repeats, warmup
        Rounds that count, and rounds before them that do not.
    on_turn
        Called after each contender's turn; there are `turns` of them.
    settle_below
        Seconds; a measure that took longer has no untimed run any more.

    Returns
    -------
    dict
        For each contender the timing of each lap.
    """
    samples: dict[str, dict[str, list[float]]] = {name: {} for name in contenders}
    slow = set()
    for number in range(warmup + repeats):
        for name, contender in contenders.items():
            contender.prepare()
            for place, measure in enumerate(contender.measures):
                if (name, place) not in slow and _seconds(measure, Stopwatch(device)) > settle_below:
                    slow.add((name, place))
                watch = Stopwatch(device)
                measure(watch)
                for lap, milliseconds in watch.laps.items() if number >= warmup else ():
                    samples[name].setdefault(lap, []).append(milliseconds)
            on_turn()
    return {name: {lap: Timing.of(times) for lap, times in laps.items()} for name, laps in samples.items()}


def _seconds(measure: Measure, watch: Stopwatch) -> float:
    started = time.perf_counter()
    measure(watch)
    return time.perf_counter() - started


def turns(contenders: int, repeats: int, warmup: int = 1) -> int:
    """How often `interleave` calls ``on_turn``."""
    return contenders * (warmup + repeats)
