"""A progress bar: how far, how fast, how long still; and a line now and then where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_EVERY_S = 15.0


class Bar:
    """A rich bar on a terminal, plain lines elsewhere; a context manager, or to be stopped.

    Parameters
    ----------
    name
        What stands in front of the bar.
    unit
        What is counted, in the plural.
    total, done
        How many there are, and how many were done before.
    console
        Where to show it; stdout unless given.
    clock
        Seconds, for the tests.
    """

    def __init__(
        self,
        name: str,
        unit: str,
        total: int,
        done: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.unit, self.total, self.first, self.clock = name, unit, total, done, clock
        self.done, self.console = done, console or Console()
        self.started = self.last_line = clock()
        self.live = None
        if self.console.is_terminal:
            columns = ("{task.description}", "{task.fields[rate]}", "{task.fields[text]}")
            name_column, rate_column, text_column = (TextColumn(column) for column in columns)
            progress = (BarColumn(), MofNCompleteColumn(), rate_column, TimeElapsedColumn(), TimeRemainingColumn())
            self.live = Progress(name_column, *progress, text_column, console=self.console)
            self.task = self.live.add_task(name, total=total, completed=done, rate="", text="")
            self.live.start()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: Any) -> None:
        self.stop()

    def advance(self) -> None:
        """Show that one more is done."""
        self.advance_to(self.done + 1)

    def advance_to(self, done: int, text: str = "") -> None:
        """Show that so many are done."""
        self.done, now = done, self.clock()
        rate = (done - self.first) / max(now - self.started, 1e-9)
        shown_rate = f"{rate:.1f} {self.unit}/s" if rate >= 1 else f"{1 / max(rate, 1e-9):.1f} s each"
        if self.live is not None:
            self.live.update(self.task, completed=done, rate=shown_rate, text=text)
        elif rate and now - self.last_line >= PLAIN_EVERY_S and done < self.total:
            self.last_line = now
            left = (self.total - done) / rate
            parts = [f"{done}/{self.total} {self.unit}", shown_rate, f"{left:.0f} s left", *filter(None, [text])]
            print(f"{self.name}: {', '.join(parts)}", file=self.console.file, flush=True)

    def stop(self) -> None:
        """Leave the bar as it is."""
        if self.live is not None:
            self.live.stop()
