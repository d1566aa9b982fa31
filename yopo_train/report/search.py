"""What the search for a plan tried, and how far its answer can be trusted: the frontier, and the stability."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from yopo_train.report.facts import MEASURES
from yopo_train.report.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    drawn_kl,
    headline,
    kl_axis,
    legend,
    mark_vertical,
    new_figure,
    percent_axis,
    tidy,
)

CONTROLS = {"uniform": (ORANGE, "s"), "random": (PURPLE, "D"), "preset": (GREEN, "^")}
"""Stages of a trace that are opponents of the search and no part of it."""


def frontier(
    trace: Sequence[Mapping[str, Any]],
    chosen: str | None = None,
    budget: float | None = None,
    measure: str = "visual_flops",
) -> Figure:
    """KL against cost of every plan that the search judged, their Pareto front, and the plan that was chosen.

    Parameters
    ----------
    trace
        One mapping a judged plan: ``plan`` (its id), ``stage``, ``cost`` (share of the base model's, in the budget's
        measure) and ``kl`` (nats per answer token).
    chosen
        Id of the plan in the run folder.
    budget
        Largest cost allowed.
    measure
        What ``cost`` is a share of, a key of `facts.MEASURES`.
    """
    name = MEASURES.get(measure, measure.replace("_", " "))
    figure = new_figure(7.0, 4.6)
    axes = tidy(figure.add_subplot(), f"{name}, share of the base model's")
    searched = [entry for entry in trace if entry["stage"] not in CONTROLS]
    axes.scatter(*_places(searched), s=18, color=GREY, alpha=0.55, linewidth=0, label=f"tried ({len(searched)})")
    front = pareto_front(searched)
    axes.step(
        *_places(front), where="post", color=BLUE, linewidth=2, marker="o", markersize=4, label="best at its cost"
    )
    for stage, (colour, marker) in CONTROLS.items():
        found = [entry for entry in trace if entry["stage"] == stage]
        if found:
            axes.scatter(*_places(found), s=42, color=colour, marker=marker, label=stage, zorder=3)
    title = "What does each share of the cost buy?"
    plan = next((entry for entry in reversed(trace) if entry["plan"] == chosen), None)
    if plan is not None:
        axes.scatter(*_places([plan]), s=260, color=RED, marker="*", edgecolor="white", label="chosen", zorder=4)
        title = f"The chosen plan costs {100 * plan['cost']:.1f} % of the {name}, at a KL of {plan['kl']:.2g}"
    if budget is not None:
        mark_vertical(axes, budget, f"budget {100 * budget:g} %")
    headline(axes, title)
    kl_axis(axes, [entry["kl"] for entry in trace])
    axes.set_xlim(left=0)
    percent_axis(axes, "x")
    legend(axes, loc="best")
    return figure


def pareto_front(trace: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The plans than which none is both cheaper and better, the cheapest first."""
    front: list[Mapping[str, Any]] = []
    for entry in sorted(trace, key=lambda entry: (entry["cost"], entry["kl"])):
        if np.isfinite(entry["kl"]) and (not front or entry["kl"] < front[-1]["kl"]):
            front.append(entry)
    return front


def stability(sizes: Sequence[Mapping[str, Any]], enough: int | None = None) -> Figure:
    """Do two disjoint halves of the calibration set make the same plan?

    Parameters
    ----------
    sizes
        One mapping a number of samples: ``samples``, and lists over repeated splits of ``heads_jaccard`` and
        ``channels_jaccard`` (overlap of the two plans, 0 .. 1) and ``kl`` (nats per answer token).
    enough
        The least number of samples that is enough; None where no size was.
    """
    sizes = sorted(sizes, key=lambda size: size["samples"])
    samples = [size["samples"] for size in sizes]
    figure = new_figure(7.0, 5.0)
    overlap, kl = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    tidy(overlap, ylabel="overlap of two plans\n(Jaccard index)")
    tidy(kl, "calibration samples")
    _spread(overlap, sizes, "heads_jaccard", "heads", BLUE, "o")
    _spread(overlap, sizes, "channels_jaccard", "channels", ORANGE, "s")
    _spread(kl, sizes, "kl", "KL", GREEN, "^")
    kl_axis(kl, [value for size in sizes for value in size["kl"]])
    for axes in (overlap, kl):
        axes.set_xscale("log", base=2)
        if enough is not None:
            mark_vertical(axes, enough, f"enough: {enough}")
    kl.set_xticks(samples, [str(number) for number in samples])
    kl.xaxis.minorticks_off()
    overlap.set_ylim(0, 1.03)
    title = "No tried number of calibration samples is enough" if samples else "How many samples are enough?"
    headline(overlap, title if enough is None else f"{enough} calibration samples are enough")
    legend(overlap, loc="lower right")
    return figure


def _spread(axes: Axes, sizes: Sequence[Mapping[str, Any]], key: str, label: str, colour: str, marker: str) -> None:
    """The mean over repetitions as a line, each repetition as a small point."""
    samples = [size["samples"] for size in sizes]
    found = [drawn_kl(size[key]) if key == "kl" else np.asarray(size[key], dtype=float) for size in sizes]
    means = [values.mean() if len(values) else np.nan for values in found]
    axes.plot(samples, means, color=colour, marker=marker, linewidth=2, label=label)
    for place, values in zip(samples, found, strict=True):
        axes.scatter([place] * len(values), values, s=10, color=colour, alpha=0.45, linewidth=0)


def _places(entries: Sequence[Mapping[str, Any]]) -> tuple[list[float], np.ndarray]:
    return [entry["cost"] for entry in entries], drawn_kl([entry["kl"] for entry in entries])
