"""Where attention goes: how far visual tokens look, and how much text looks at the image in each layer."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from yopo_train.cost import Grid, window_pairs
from yopo_train.report.style import (
    BLUE,
    GREY,
    INK,
    PALE,
    headline,
    layer_bar,
    layer_colours,
    legend,
    mark_vertical,
    new_figure,
    percent_axis,
    share_ticks,
    tidy,
    whole_numbers,
)


def attention_by_distance(mass: Tensor, radius: int | None = None, grids: Sequence[Grid] = ()) -> Figure:
    """Cumulative share of visual-to-visual attention by grid distance (YOPO, arXiv 2410.06169, figure 2).

    Parameters
    ----------
    mass
        Attention that visual queries give to visual keys at each distance (the larger of the row and the column
        distance), ``(layers, distances)``, not negative; need not sum to one.
    radius
        The plan's; None where it has none.
    grids
        Images of a typical prompt: what attention that is the same for all pairs of a grid would look like.
    """
    mass = mass.double().numpy()
    total = mass.sum(axis=1, keepdims=True)
    within = mass.cumsum(axis=1) / np.where(total > 0, total, 1)
    layers, distances = within.shape
    mean = within[total[:, 0] > 0].mean(axis=0) if (total > 0).any() else within.mean(axis=0)
    figure = new_figure()
    axes = tidy(figure.add_subplot(), "grid distance (tokens)", "visual-to-visual attention within the distance")
    colours, scale = layer_colours(layers)
    for layer in range(layers):
        axes.plot(within[layer], color=colours[layer], linewidth=1, alpha=0.75)
    axes.plot(mean, color=INK, linewidth=2.6, label="mean of the layers")
    even = np.array([window_pairs(list(grids), distance) for distance in range(distances)], dtype=float)
    if grids:
        even /= window_pairs(list(grids), max(max(grid) for grid in grids))
        axes.plot(even, color=INK, linewidth=1.2, linestyle=":", label="if all pairs of tokens counted the same")
    title = "How far do visual tokens look?"
    if radius is not None:
        place = min(radius, distances - 1)
        mark_vertical(axes, place, f"the plan's radius {radius}")
        title = f"{100 * mean[place]:.0f} % of the attention among visual tokens lies within distance {radius}"
        title += f", as do {100 * even[place]:.0f} % of the pairs" if grids else ""
    headline(axes, title)
    axes.set_ylim(0, 1.03)
    axes.set_xlim(-0.3, max(distances - 1, 1) + 0.3)
    percent_axis(axes)
    whole_numbers(axes)
    layer_bar(figure, axes, scale)
    legend(axes, loc="lower right")
    return figure


def cross_modal_by_layer(share: Tensor, depth: int | None = None) -> Figure:
    """Share of text queries' attention that goes to the image, by layer (YOPO, arXiv 2410.06169, figure 3).

    Parameters
    ----------
    share
        ``(layers,)``, in 0 .. 1.
    depth
        The plan's visual depth; layers from there on are shaded.
    """
    values, layers = share.double().numpy(), len(share)
    figure = new_figure(7.0, 3.6)
    axes = tidy(figure.add_subplot(), "layer", "attention of text queries\nthat goes to the image")
    axes.bar(range(layers), values, color=BLUE, width=0.75)
    title = "Where does text read the image?"
    if depth is not None and depth < layers:
        axes.axvspan(depth - 0.5, layers - 0.5, color=PALE, alpha=0.6, linewidth=0, zorder=0)
        mark_vertical(axes, depth - 0.5, f"the plan's visual depth {depth}")
        part = values[:depth].sum() / max(values.sum(), np.finfo(float).tiny)
        title = f"{100 * part:.0f} % of what text gives to the image, it gives before layer {depth}"
    headline(axes, title)
    axes.set_xlim(-0.6, layers - 0.4)
    axes.set_ylim(0, 1.22 * max(values.max(), 1e-3))  # the legend lies above the bars
    share_ticks(axes)
    axes.grid(False, axis="x")
    axes.spines["bottom"].set_color(GREY)
    percent_axis(axes)
    whole_numbers(axes)
    legend(axes, loc="upper right")
    return figure
