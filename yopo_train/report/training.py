"""The course of the training: loss, scores, gradient norm and learning rate, from ``logs/metrics.csv``."""

import csv
import math
import shlex

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from yopo_train.errors import UserError
from yopo_train.report.html import Block
from yopo_train.report.style import BLUE, GREEN, ORANGE, PURPLE, RED, SKY, headline, legend, new_figure, png, tidy
from yopo_train.run_folder import RunFolder, write_bytes
from yopo_train.summary import STAGES

Curves = dict[str, list[tuple[int, float]]]
"""Optimizer steps, counted from 1, and values of each column that has any."""
SMOOTHED = 20
"""The loss is smoothed over so many logged steps, and over a tenth of a short training."""
MOST_SCORES = 6


def read_training(run: RunFolder) -> Curves:
    """What a training has logged; empty where none has.

    Raises
    ------
    UserError
        The file is damaged.
    """
    path = run.logs / "metrics.csv"
    curves: Curves = {}
    if not path.is_file():
        return curves
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if value and name not in ("step", "epoch") and name.split("/")[0] not in STAGES:
                        curves.setdefault(name, []).append((int(row["step"]) + 1, float(value)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise UserError(f"{path}: damaged, no training can be read from it: {error}") from None
    return curves if "train/loss" in curves else {}


def training_block(run: RunFolder, curves: Curves) -> Block:
    """The section of the page."""
    block = Block(
        "training",
        "The training",
        "Loss of the answers' tokens at each logged optimizer step, and a running mean; what evaluations during "
        "training found; the norm of the gradients before clipping; the learning rate.",
    )
    if curves:
        block.picture = png(training_figure(curves))
        block.notes.extend(_rates(curves))
    else:
        command = f"yopo-train fit --config {shlex.quote(str(run.config))}"
        block.missing = ("the run has no training in logs/metrics.csv", command)
    return block


def write_training_plot(run: RunFolder) -> str | None:
    """``plots/training.png`` alone, for a run without anything else to report; its path, or None without a training."""
    curves = read_training(run)
    if not curves:
        return None
    path = run.path / "plots" / "training.png"
    write_bytes(path, png(training_figure(curves)))
    return str(path)


def training_figure(curves: Curves) -> Figure:
    """Four axes over the same steps; three where nothing was evaluated during training."""
    scores = score_names(curves)
    figure = new_figure(9.0, 6.2)
    grid = figure.add_gridspec(2, 2)
    loss = figure.add_subplot(grid[0, 0] if scores else grid[0, :])
    _draw_loss(loss, curves["train/loss"])
    if scores:
        _draw_scores(figure.add_subplot(grid[0, 1], sharex=loss), curves, scores)
    _draw(figure.add_subplot(grid[1, 0], sharex=loss), curves.get("train/grad_norm", []), "gradient norm", PURPLE)
    _draw(figure.add_subplot(grid[1, 1], sharex=loss), curves.get("train/lr", []), "learning rate", GREEN)
    return figure


def score_names(curves: Curves) -> list[str]:
    """What evaluations found, the shortest names first: totals before their parts."""
    found = [name for name in curves if name.split("/")[0] != "train"]
    return sorted(found, key=lambda name: (name.count("/"), name))[:MOST_SCORES]


def _draw_loss(axes: Axes, points: list[tuple[int, float]]) -> None:
    steps, values = _finite(points)
    tidy(axes, "optimizer step", "loss (nats per answer token)")
    axes.plot(steps, values, color=BLUE, linewidth=0.9, alpha=0.4)
    width = min(SMOOTHED, max(1, len(values) // 10))
    mean = np.convolve(values, np.ones(width) / width, "valid") if len(values) else values
    axes.plot(steps[width - 1 :], mean, color=BLUE, linewidth=1.8, label=f"mean of {width}" if width > 1 else None)
    if len(mean):
        headline(axes, f"Loss: {mean[0]:.3g} at first, {mean[-1]:.3g} at last")
    legend(axes)


def _draw_scores(axes: Axes, curves: Curves, names: list[str]) -> None:
    tidy(axes, "optimizer step", "score", "Scores during training")
    colours = (RED, BLUE, ORANGE, GREEN, PURPLE, SKY)
    for name, colour, marker in zip(names, colours, "osD^vX", strict=False):
        steps, values = _finite(curves[name])
        axes.plot(steps, values, color=colour, marker=marker, markersize=4, linewidth=1.4, label=name)
    legend(axes, fontsize=8)


def _draw(axes: Axes, points: list[tuple[int, float]], what: str, colour: str) -> None:
    steps, values = _finite(points)
    tidy(axes, "optimizer step", what)
    axes.plot(steps, values, color=colour, linewidth=1.3)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if len(values):
        headline(axes, f"{what.capitalize()}: at most {values.max():.3g}")
        if values.min() > 0 and values.max() > 30 * np.median(values):  # a spike, beside which nothing else is seen
            axes.set_yscale("log")


def _finite(points: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    sound = [(step, value) for step, value in points if math.isfinite(value)]
    steps, values = zip(*sound, strict=True) if sound else ((), ())
    return np.array(steps, dtype=int), np.array(values, dtype=float)


def _rates(curves: Curves) -> list[str]:
    """Medians of what was measured beside the loss."""
    texts = {
        "train/tokens_per_s": "{:.0f} tokens a second and process",
        "train/visual_tokens_per_s": "{:.0f} of them visual",
        "train/data_wait": "{:.1%} of the time spent waiting for data",
        "train/memory_gib": "{:.2f} GiB of memory",
    }
    found = [text.format(np.median(_finite(curves[name])[1])) for name, text in texts.items() if name in curves]
    return [f"Medians of the logged steps: {', '.join(found)}."] if found else []
