"""What the plan saves: costs before and after, as bars."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from yopo_train.report.style import BLUE, GREY, PALE, headline, new_figure, percent_axis, tidy

MEASURES = {"visual_flops": "visual FLOPs", "prefill_flops": "prefill FLOPs", "kv_cache_bytes": "KV cache"}


def cost_bars(base: Mapping[str, float], pruned: Mapping[str, float]) -> Figure:
    """Each cost of the pruned model as a share of the base model's.

    Parameters
    ----------
    base, pruned
        Costs by name: the keys of `MEASURES`, or any other name, which is shown as it is. Names of only one of the two,
        and those that cost the base nothing, are left out.
    """
    names = [name for name in pruned if base.get(name)]
    shares = [pruned[name] / base[name] for name in names]
    places = range(len(names) - 1, -1, -1)
    figure = new_figure(7.0, 1.5 + 0.55 * max(len(names), 1))
    axes = tidy(figure.add_subplot(), "share of the base model's")
    axes.barh(places, [1.0] * len(names), color=PALE, height=0.62)
    axes.barh(places, shares, color=BLUE, height=0.62)
    for place, share in zip(places, shares, strict=True):
        times = f", {1 / share:.2f} times less" if 0 < share < 1 else ""
        inside = share < 0.6
        text, colour = f"{100 * share:.1f} %{times}", "#333333" if inside else "white"
        x, side = (share + 0.012, "left") if inside else (share - 0.012, "right")
        axes.text(x, place, text, va="center", ha=side, fontsize=9.5, color=colour)
    axes.set_yticks(list(places), [MEASURES.get(name, name) for name in names], fontsize=10)
    axes.set_xlim(0, max([1.0, *shares]) * 1.01)
    axes.grid(False, axis="y")
    axes.spines["left"].set_color(GREY)
    percent_axis(axes, "x")
    first = f"{100 * shares[0]:.1f} % of the {MEASURES.get(names[0], names[0])} stay" if names else "No cost to compare"
    headline(axes, f"{first} (grey: the base model)" if names else first)
    return figure
