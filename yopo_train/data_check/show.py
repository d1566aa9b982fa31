"""The report of ``data check`` in a terminal."""

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

BAR = 40
ROWS: dict[str, Callable[[dict[str, Any]], int]] = {
    "rows found": lambda found: found["rows"]["found"],
    "bad rows": lambda found: found["rows"]["bad"],
    "good rows, at most the limit": lambda found: found["rows"]["looked_at"],
    "longer than max_length": lambda found: found["rows"]["longer_than_max_length"],
    "rows used": lambda found: found["rows"]["used"],
    "images found": lambda found: found["images"]["named"],
    "rows whose images were decoded": lambda found: found["images"]["decoded_rows"],
    "images decoded": lambda found: found["images"]["decoded"],
}
STYLES = {"image": "cyan", "prompt": "dim", "trained": "bold green"}


def show(report: dict[str, Any], console: Console | None = None) -> None:
    """Print it."""
    console = console or Console()
    if report["splits"]:
        console.print(_overview(report["splits"]))
    for found in report["splits"].values():
        _faults(console, found)
    train = report["splits"].get("train")
    if train is not None:
        for name, title in (("tokens", "tokens a training row"), ("visual_tokens", "visual tokens among them")):
            if train[name]["counts"]:
                console.print(_title(title, train[name]), style="bold", highlight=False, soft_wrap=True)
                console.print(_histogram(train[name]))
    for sample in report.get("samples", ()):
        console.print(_sample(sample))
    for line in lines(report):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for problem in report["problems"]:
        console.print(f"problem: {problem}", style="bold red", highlight=False, markup=False, soft_wrap=True)


def lines(report: dict[str, Any]) -> list[str]:
    """Batches, steps, memory and time, a line each."""
    found = []
    if batches := report.get("batches"):
        largest = batches["largest_batch"]
        found.append(
            f"batches: {100 * batches['padding']:.1f} % padding; the largest holds {largest['tokens']} tokens, "
            f"{largest['visual_tokens']} of them visual (first epoch, first process)"
        )
    if steps := report.get("steps"):
        total = f"{steps['steps']}" if steps["steps"] is not None else "unlimited"
        epochs = f" = {steps['epochs']:.2f} epochs" if steps["epochs"] is not None else ""
        found.append(
            f"steps: {total}{epochs}, {steps['steps_per_epoch']} an epoch, {steps['rows_per_step']} rows a step "
            f"on {steps['processes']} processes"
        )
    if memory := report.get("memory"):
        parts = ", ".join(f"{name} {_size(size)}" for name, size in memory["parts"].items())
        found.append(f"memory, estimated: {_size(memory['total'])} ({parts}); {memory['assumes']}")
    if time := report.get("time"):
        found.append(f"time: {time['text']}")
    return found


def _size(number: int) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.1f} MiB"


def _overview(splits: dict[str, dict[str, Any]]) -> Table:
    """One column a split."""
    table = Table("", *splits)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, number in ROWS.items():
        numbers = [number(found) for found in splits.values()]
        table.add_row(name, *map(str, numbers), style="red" if name == "bad rows" and any(numbers) else None)
    return table


def _faults(console: Console, found: dict[str, Any]) -> None:
    for each in [*found["sets"], {"bad": found["images"]["faults"], "examples": found["images"]["examples"]}]:
        for fault, number in each["bad"].items():
            console.print(f"  {number} x {fault}", style="red", highlight=False, markup=False)
        for example in each["examples"]:
            console.print(f"    {example}", highlight=False, markup=False, soft_wrap=True)


def _title(title: str, found: dict[str, Any]) -> str:
    return f"{title}: {found['min']} to {found['max']}, mean {found['mean']:.1f}, median {found['median']:.0f}"


def _histogram(found: dict[str, Any]) -> Table:
    table = Table(show_header=False, box=None)
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column()
    for low, high, count in zip(found["edges"], found["edges"][1:], found["counts"], strict=False):
        name = f"{low}" if high == low + 1 else f"{low}-{high - 1}"
        table.add_row(name, str(count), "█" * round(BAR * count / max(found["counts"])))
    return table


def _sample(sample: dict[str, Any]) -> Text:
    """Trained stretches stand in brackets too: not every terminal has colours."""
    text = Text(f"row {sample['id']!r}, {sample['kind']}, {sample['tokens']} tokens; trained: ⟦…⟧\n", style="bold")
    for run in sample["runs"]:
        if run["kind"] == "image":
            shown = f"<image: {run['tokens']} tokens>"
        else:
            shown = f"⟦{run['text']}⟧" if run["kind"] == "trained" else run["text"]
        text.append(shown, style=f"not bold {STYLES[run['kind']]}")
    return text.append("\n")
