"""The picture of ``--plot``: a sweep as lines, one prompt shape as bars."""

from __future__ import annotations

from pathlib import Path

from .results import LAPS, Comparison, growth

FORMATS = (".pdf", ".png", ".svg")


def save_plot(comparisons: list[Comparison], path: Path) -> None:
    """Write one picture of all comparisons; the file's ending picks its format, see `FORMATS`."""
    from matplotlib.figure import Figure  # draws without pyplot, so that no window system is asked for

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    _lines(axes, comparisons) if len(comparisons) > 1 else _bars(axes, comparisons[0])
    axes.set_ylabel("ms")
    axes.legend(loc="upper left")
    first = comparisons[0]
    axes.set_title(f"{first.device}, {first.dtype}, batch {first.batch}, {first.text_tokens} text tokens", fontsize=9)
    figure.savefig(path)


def _lines(axes, comparisons: list[Comparison]) -> None:
    """LLM prefill over visual tokens, both logarithmic."""
    tokens = [comparison.visual_tokens for comparison in comparisons]
    for name, exponent in growth(comparisons).items():
        times = [comparison.rows[name].times["prefill"].median for comparison in comparisons]
        axes.loglog(tokens, times, marker="o", label=f"{name}: tokens^{exponent:.2f}")
    axes.set_xticks(tokens, [str(number) for number in tokens])
    axes.minorticks_off()
    axes.set_xlabel("visual tokens (LLM prefill)")


def _bars(axes, comparison: Comparison) -> None:
    """Every lap of every contender; the whisker is the 90th percentile."""
    width = 0.8 / len(comparison.rows)
    laps = [lap for lap in LAPS if lap in comparison.rows["base"].times]
    for number, (name, row) in enumerate(comparison.rows.items()):
        there = [(place, row.times[lap]) for place, lap in enumerate(laps) if lap in row.times]
        places = [place + (number - (len(comparison.rows) - 1) / 2) * width for place, _ in there]
        medians = [timing.median for _, timing in there]
        over = [[0.0] * len(there), [timing.p90 - timing.median for _, timing in there]]
        bars = axes.bar(places, medians, width, yerr=over, label=name)
        axes.bar_label(bars, fmt="%.3g", fontsize=7, padding=2)
    axes.set_xticks(range(len(laps)), [lap.replace("_", " ") for lap in laps])
    axes.set_xlabel(f"{comparison.visual_tokens} visual tokens")
