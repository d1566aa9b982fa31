"""What the scores say and what the plan made of them: the head ratio's map, and the channel scores' curves."""

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from yopo_train.report.style import (
    INK,
    PALE,
    RED,
    headline,
    layer_bar,
    layer_colours,
    legend,
    new_figure,
    percent_axis,
    tidy,
    whole_numbers,
)

POINTS = 256
"""A curve over thousands of channels is drawn at so many of them."""


def head_map(rho: Tensor, kept: Tensor | None = None, depth: int | None = None) -> Figure:
    """Head ratio of every head, logarithmic colours (YOPO, arXiv 2410.06169, figure 5); kept heads have a dot.

    Parameters
    ----------
    rho
        Mean over the samples, ``(layers, heads)``.
    kept
        The plan's active heads, bool ``(layers, heads)``.
    depth
        The plan's visual depth; layers from there on are hatched.
    """
    values = rho.double().numpy()
    layers, heads = values.shape
    positive = values[(values > 0) & np.isfinite(values)]
    low, high = np.quantile(positive, [0.02, 1.0]) if positive.size else (1e-3, 1.0)
    figure = new_figure(min(3.4 + 0.2 * heads, 11), min(max(1.7 + 0.19 * layers, 3.4), 9))
    axes = figure.add_subplot()
    norm = LogNorm(low, max(high, low * 10))
    image = axes.imshow(np.maximum(values, low), norm=norm, cmap="viridis", aspect="auto", interpolation="nearest")
    title = "Which heads look at the image?"
    if kept is not None:
        rows, columns = kept.numpy().nonzero()
        size = 16 if max(layers, heads) <= 48 else 4
        axes.scatter(columns, rows, s=size, color="white", edgecolor="black", linewidth=0.8, label="kept")
        title = f"{len(rows)} of {layers * heads} heads stay"
    if depth is not None and depth < layers:
        corner, height = (-0.5, depth - 0.5), layers - depth
        axes.add_patch(Rectangle(corner, heads, height, facecolor=PALE, alpha=0.65, linewidth=0))
        axes.add_patch(Rectangle(corner, heads, height, fill=False, hatch="////", edgecolor="#777777", linewidth=0))
        axes.axhline(depth - 0.5, color=RED, linewidth=1.8)
        title += f", none from layer {depth} on"
    headline(axes, title)
    axes.set_xlabel("head", fontsize=10, color=INK)
    axes.set_ylabel("layer", fontsize=10, color=INK)
    axes.tick_params(labelsize=9, length=2)
    whole_numbers(axes, "x")
    whole_numbers(axes, "y")
    bar = figure.colorbar(image, ax=axes, pad=0.02, fraction=0.05)
    bar.set_label("head ratio: attention to the image / to the rest", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure


def channel_curves(scores: Tensor, kept: Tensor | None = None, depth: int | None = None) -> Figure:
    """How much of each layer's channel score the best channels hold, and what the plan keeps of it.

    Parameters
    ----------
    scores
        Channel score, ``(layers, channels)``, not negative.
    kept
        The plan's active channels, bool ``(layers, channels)``: a dot a layer, at its ratio and the share of the score
        that it holds. On its layer's curve the best channels were kept, under it others.
    depth
        The plan's visual depth; layers from there on are grey.
    """
    values = scores.double().numpy()
    layers, channels = values.shape
    depth = layers if depth is None else depth
    total = np.maximum(values.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    shares = np.concatenate([np.zeros((layers, 1)), (-np.sort(-values, axis=1)).cumsum(axis=1) / total], axis=1)
    at = np.unique(np.linspace(0, channels, POINTS).round().astype(int))
    figure = new_figure()
    axes = tidy(figure.add_subplot(), "channels kept, best first", "share of the layer's channel score")
    colours, scale = layer_colours(layers)
    for layer in range(layers):
        late = layer >= depth
        colour, width = (PALE, 0.8) if late else (colours[layer], 1.3)
        axes.plot(at / channels, shares[layer, at], color=colour, linewidth=width, zorder=1.8 if late else 2)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=":", label="all channels equal")
    title = "How unequal are the channels?"
    if kept is not None and depth:
        ratio = kept[:depth].double().mean(dim=1).numpy()
        share = (values * kept.numpy()).sum(axis=1)[:depth] / total[:depth, 0]
        label = "kept by the plan, a dot a layer"
        axes.scatter(ratio, share, s=36, color=colours[:depth], edgecolor=RED, linewidth=1.4, zorder=3, label=label)
        title = f"The {100 * ratio.mean():.0f} % of channels that stay hold {100 * share.mean():.0f} % of the score"
    headline(axes, title)
    axes.set_xlim(0, 1.01)
    axes.set_ylim(0, 1.03)
    percent_axis(axes, "x")
    percent_axis(axes)
    layer_bar(figure, axes, scale)
    legend(axes, loc="lower right")
    return figure
