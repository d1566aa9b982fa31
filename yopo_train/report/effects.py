"""What one mechanism alone does to the answers: KL and top-1 agreement against its setting."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from yopo_train.report.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    drawn_kl,
    headline,
    kl_axis,
    legend,
    mark_vertical,
    new_figure,
    percent_axis,
    share_ticks,
    tidy,
    whole_numbers,
)

Points = Sequence[Mapping[str, float | None]]
"""One mapping a measured plan, with ``value``, ``kl`` (nats per answer token) and ``agreement`` (0 .. 1)."""

CHOICES = {"score": (BLUE, "o"), "magnitude": (ORANGE, "s"), "prefix": (GREEN, "^"), "random": (GREY, "D")}
OTHER = (PURPLE, "v")


def depth_curve(points: Points, depth: int | None = None) -> Figure:
    """Effect of the visual depth alone; ``depth`` is the plan's."""
    figure, kl, agreement = _panels("visual depth D (layers that process visual tokens)")
    points = sorted(points, key=lambda point: point["value"])
    _draw(kl, agreement, [point["value"] for point in points], points)
    for axes in (kl, agreement):
        if depth is not None:
            mark_vertical(axes, depth, f"the plan's depth {depth}")
        whole_numbers(axes)
    headline(kl, _answer("How many layers need the image?", points, depth, f"Visual depth {depth} alone"))
    legend(agreement, loc="lower right")
    return figure


def radius_curve(points: Points, radius: int | None = None, planned: bool = True) -> Figure:
    """Effect of the neighbor radius alone; a value of None is no restriction.

    Parameters
    ----------
    radius
        The plan's.
    planned
        Whether there is a plan at all.
    """
    points = sorted(points, key=lambda point: np.inf if point["value"] is None else point["value"])
    names = ["off" if point["value"] is None else str(point["value"]) for point in points]
    figure, kl, agreement = _panels("neighbor radius r (off: no restriction)")
    _draw(kl, agreement, list(range(len(points))), points)
    agreement.set_xticks(range(len(points)), names)
    place = next((i for i, point in enumerate(points) if planned and point["value"] == radius), None)
    for axes in (kl, agreement):
        if place is not None:
            mark_vertical(axes, place, f"the plan's radius {names[place]}")
    headline(kl, _answer("How far must visual tokens see?", points, radius, f"Radius {radius} alone"))
    legend(agreement, loc="lower right")
    return figure


def ratio_curves(choices: Mapping[str, Points], what: str, ratio: float | None = None) -> Figure:
    """Effect of pruning heads, or channels, alone: what the score keeps beside what the controls keep.

    Parameters
    ----------
    choices
        Points by choice (score, random, magnitude, prefix); points of one value are repetitions with other seeds: their
        mean is drawn, and their range shaded.
    what
        ``"heads"`` or ``"channels"``.
    ratio
        The plan's mean ratio over its visual layers.
    """
    figure, kl, agreement = _panels(f"{what} kept in every layer")
    order = [name for name in CHOICES if name in choices] + sorted(set(choices) - set(CHOICES))
    for name in reversed(order):  # the score is drawn last, on top
        colour, marker = CHOICES.get(name, OTHER)
        values, groups = _grouped(choices[name])
        for axes, key in ((kl, "kl"), (agreement, "agreement")):
            drawn = [drawn_kl([p[key] for p in group]) if key == "kl" else [p[key] for p in group] for group in groups]
            axes.plot(
                values,
                [np.mean(found) for found in drawn],
                color=colour,
                marker=marker,
                markersize=5,
                linewidth=2.2 if name == "score" else 1.4,
                label=name,
            )
            if any(len(group) > 1 for group in groups):
                low, high = [min(found) for found in drawn], [max(found) for found in drawn]
                axes.fill_between(values, low, high, color=colour, alpha=0.18, linewidth=0)
    kl_axis(kl, [point["kl"] for points in choices.values() for point in points])
    for axes in (kl, agreement):
        if ratio is not None:
            mark_vertical(axes, ratio, f"the plan: {100 * ratio:.0f} %")
        percent_axis(axes, "x")
    _agreement_axis(agreement, [point["agreement"] for points in choices.values() for point in points])
    headline(kl, _versus_random(choices, what))
    handles, names = agreement.get_legend_handles_labels()
    agreement.legend(handles[::-1], names[::-1], fontsize=9, edgecolor="none", framealpha=0.85, loc="lower right")
    return figure


def _panels(xlabel: str) -> tuple[Figure, Axes, Axes]:
    """KL above agreement, over one horizontal axis."""
    figure = new_figure(7.0, 5.2)
    kl, agreement = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    tidy(kl)
    tidy(agreement, xlabel, "top-1 agreement\nwith the base model")
    percent_axis(agreement)
    return figure, kl, agreement


def _draw(kl: Axes, agreement: Axes, places: Sequence[float], points: Points) -> None:
    """One curve in both panels."""
    losses, agreed = [point["kl"] for point in points], [point["agreement"] for point in points]
    kl.plot(places, drawn_kl(losses), color=BLUE, marker="o", markersize=5, linewidth=2)
    agreement.plot(places, agreed, color=BLUE, marker="o", markersize=5, linewidth=2)
    kl_axis(kl, losses)
    _agreement_axis(agreement, agreed)


def _agreement_axis(axes: Axes, values: Sequence[float]) -> None:
    """From a little under the lowest value, and 90 % at most, to a little over 100 %, which is the last tick."""
    low = min([value for value in values if np.isfinite(value)], default=0.0)
    bottom = min(0.9, low - 0.1 * (1 - low)) if low > 0.3 else 0.0
    axes.set_ylim(bottom, 1 + 0.04 * (1 - bottom))
    share_ticks(axes)


def _grouped(points: Points) -> tuple[list[float], list[Points]]:
    """Values in order, and the points of each."""
    values = sorted({point["value"] for point in points})
    return values, [[point for point in points if point["value"] == value] for value in values]


def _answer(question: str, points: Points, value: float | None, what: str) -> str:
    """The takeaway at the plan's value where it was measured; else the question."""
    found = next((point for point in points if value is not None and point["value"] == value), None)
    if found is None:
        return question
    return f"{what} keeps {100 * found['agreement']:.1f} % of the answer tokens (KL {found['kl']:.2g})"


def _versus_random(choices: Mapping[str, Points], what: str) -> str:
    """At how many ratios the score beats random; else the question."""
    found = {name: dict(zip(*_grouped(choices.get(name, [])), strict=True)) for name in ("score", "random")}
    # what prunes nothing beats nothing
    common = [value for value in found["score"].keys() & found["random"].keys() if 0 < value < 1]
    if not common:
        return f"Which {what} may go?"

    def loss(name: str, value: float) -> float:
        return float(np.mean([point["kl"] for point in found[name][value]]))

    wins = sum(loss("score", value) < loss("random", value) for value in common)
    return f"{what.capitalize()} kept by score beat random ones at {wins} of {len(common)} ratios"
