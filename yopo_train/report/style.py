"""How all figures look: palette, fonts, axes. Each figure has its own canvas; matplotlib's global state is not touched.

Colours are Okabe and Ito's, told apart by colour-blind people too; lines that are compared differ in marker as well.
"""

import io
from collections.abc import Sequence
from textwrap import fill

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
INK, GREY, PALE = "#222222", "#8a8a8a", "#d9d9d9"
KL_FLOOR = 1e-5
"""Nats; a smaller KL is drawn here: a logarithmic axis has no zero, and below lies rounding."""


def new_figure(width: float = 7.0, height: float = 4.2) -> Figure:
    """An empty figure with its own Agg canvas; size in inches."""
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def tidy(axes: Axes, xlabel: str = "", ylabel: str = "", title: str = "") -> Axes:
    """Labels, a light grid, and no frame at the top and the right."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=INK, labelsize=9, length=3)
    axes.grid(True, color="#ececec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel, fontsize=10, color=INK)
    axes.set_ylabel(ylabel, fontsize=10, color=INK)
    if title:
        headline(axes, title)
    return axes


def headline(axes: Axes, title: str) -> None:
    """The takeaway, above the axes and left-aligned; wrapped to the figure's width."""
    title = fill(title, width=round(9.7 * axes.figure.get_figwidth()))
    axes.set_title(title, fontsize=10.5, fontweight="bold", color=INK, loc="left")


def legend(axes: Axes, **options) -> None:
    """A legend without a frame, where there is anything to name."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(**({"fontsize": 9, "frameon": True, "framealpha": 0.85, "edgecolor": "none"} | options))


def percent_axis(axes: Axes, which: str = "y") -> None:
    """Shares as percent."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))


def share_ticks(axes: Axes) -> None:
    """Ticks of shares of a whole: the axis may go on a little, but there is no 102 %."""
    low, high = axes.get_ylim()
    ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, min(high, 1))
    axes.set_yticks([tick for tick in ticks if low <= tick <= min(high, 1 + 1e-9)])


def whole_numbers(axes: Axes, which: str = "x") -> None:
    """Ticks at whole numbers only."""
    (axes.xaxis if which == "x" else axes.yaxis).set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def kl_axis(axes: Axes, values: Sequence[float]) -> None:
    """Logarithmic KL, in nats; says so where a value lies under the floor."""
    axes.set_yscale("log")
    axes.set_ylabel("KL to the base model\n(nats per answer token)", fontsize=10, color=INK)
    known = [value for value in values if np.isfinite(value)]
    if any(value < KL_FLOOR for value in known):
        axes.axhline(KL_FLOOR, color=GREY, linewidth=0.8, linestyle=":")
        place = {"xycoords": ("axes fraction", "data"), "xytext": (0, 3), "textcoords": "offset points"}
        axes.annotate("0, or nearly", (0.01, KL_FLOOR), **place, fontsize=8, color=GREY)
    top = max([value for value in known if value > 0], default=1.0)
    bottom = min([max(value, KL_FLOOR) for value in known], default=KL_FLOOR)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if top < 40 * bottom else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom / 1.6, max(top, 10 * bottom) * 1.8)


def drawn_kl(values: Sequence[float]) -> np.ndarray:
    """KL as it can be drawn on a logarithmic axis; what is not finite stays a gap."""
    values = np.asarray(values, dtype=float)
    return np.where(np.isfinite(values), np.maximum(values, KL_FLOOR), np.nan)


def layer_colours(layers: int) -> tuple[list, ScalarMappable]:
    """One colour a layer, early dark to late light, and what a colour bar needs."""
    colours: Colormap = colormaps["viridis"]
    scale = Normalize(0, max(layers - 1, 1))
    return [colours(0.92 * scale(layer)) for layer in range(layers)], ScalarMappable(scale, _cut(colours))


def layer_bar(figure: Figure, axes: Axes | list[Axes], mappable: ScalarMappable) -> None:
    """The colour bar of `layer_colours`."""
    bar = figure.colorbar(mappable, ax=axes, pad=0.02, fraction=0.045)
    bar.set_label("layer", fontsize=9)
    bar.ax.tick_params(labelsize=8, length=2)
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    bar.outline.set_visible(False)


def mark_vertical(axes: Axes, x: float, label: str) -> None:
    """The plan's choice on the horizontal axis."""
    axes.axvline(x, color=RED, linewidth=1.6, linestyle=(0, (4, 2)), label=label, zorder=1.5)


def _cut(colours: Colormap) -> Colormap:
    """Without its lightest end, which is not seen on white."""
    return ListedColormap(colours(np.linspace(0, 0.92, 256)))
