"""Every figure draws whatever shape a model has, and says what it shows."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import rcParams
from PIL import Image

from yopo_train.report.attention import attention_by_distance, cross_modal_by_layer
from yopo_train.report.costs import cost_bars
from yopo_train.report.effects import depth_curve, radius_curve, ratio_curves
from yopo_train.report.scoring import channel_curves, head_map
from yopo_train.report.search import frontier, pareto_front, stability
from yopo_train.report.style import KL_FLOOR, drawn_kl, png

LOSSES = st.floats(0, 20) | st.sampled_from([float("nan"), float("inf"), 1e-12])


@pytest.fixture(autouse=True)
def unchanged():
    """Drawing changes none of matplotlib's global settings."""
    before = dict(rcParams)
    yield
    assert dict(rcParams) == before


def draw(figure) -> None:
    with Image.open(io.BytesIO(png(figure))) as image:
        assert image.format == "PNG"


def title(figure) -> str:
    return figure.axes[0].get_title(loc="left").replace("\n", " ")


def vertical_lines(axes) -> list[float]:
    return [
        line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2
    ]


@st.composite
def models(draw_from):
    """Layers, heads, channels, depth, and a generator."""
    layers = draw_from(st.integers(1, 40))
    sizes = layers, draw_from(st.integers(1, 32)), draw_from(st.integers(1, 600))
    generator = torch.Generator().manual_seed(draw_from(st.integers(0, 1000)))
    return *sizes, draw_from(st.integers(0, layers)), generator


@settings(max_examples=6, deadline=None)
@given(models(), st.booleans(), st.sampled_from([0.0, 1.0, 1e-6]))
def test_head_maps_and_channel_curves(model, planned, scale):
    layers, heads, channels, depth, generator = model
    kept = {}
    for name, width in (("heads", heads), ("channels", channels)):
        mask = torch.rand(layers, width, generator=generator) < 0.5
        mask[depth:] = False
        kept[name] = mask if planned else None
    depth = depth if planned else None
    draw(head_map(scale * torch.rand(layers, heads, generator=generator), kept["heads"], depth))
    draw(channel_curves(scale * torch.rand(layers, channels, generator=generator), kept["channels"], depth))


@settings(max_examples=6, deadline=None)
@given(models(), st.integers(1, 60), st.none() | st.integers(0, 100), st.sampled_from([0.0, 1.0]))
def test_attention(model, distances, radius, scale):
    layers, _, _, depth, generator = model
    draw(attention_by_distance(scale * torch.rand(layers, distances, generator=generator), radius))
    draw(cross_modal_by_layer(scale * torch.rand(layers, generator=generator), depth))


@settings(max_examples=6, deadline=None)
@given(st.lists(st.tuples(LOSSES, st.floats(0, 1)), min_size=1, max_size=40), st.data())
def test_effects(measured, data):
    points = [{"value": i, "kl": kl, "agreement": agreement} for i, (kl, agreement) in enumerate(measured)]
    draw(depth_curve(points, data.draw(st.integers(0, len(points)))))
    draw(radius_curve([points[0] | {"value": None}, *points[1:]], data.draw(st.none() | st.integers(0, 9))))
    shares = [point | {"value": (i % 5) / 4} for i, point in enumerate(points)]
    names = data.draw(st.lists(st.sampled_from(["score", "random", "magnitude", "prefix", "mine"]), min_size=1))
    draw(ratio_curves(dict.fromkeys(names, shares), "heads", data.draw(st.none() | st.floats(0, 1))))


@settings(max_examples=6, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), LOSSES), min_size=1, max_size=60))
def test_searches(found):
    stages = ["grid", "local", "uniform", "random"]
    trace = [{"plan": str(i), "stage": stages[i % 4], "cost": cost, "kl": kl} for i, (cost, kl) in enumerate(found)]
    draw(frontier(trace, chosen="0", budget=0.25, measure="kv_bytes"))
    front = pareto_front(trace)
    for entry in trace:
        beaten = [other for other in trace if other["cost"] <= entry["cost"] and other["kl"] < entry["kl"]]
        if entry in front:
            assert not beaten
        elif np.isfinite(entry["kl"]):
            assert any(other["cost"] <= entry["cost"] and other["kl"] <= entry["kl"] for other in front)


@pytest.mark.parametrize("enough", [None, 16])
def test_stability(enough):
    size = {"heads_jaccard": [0.5, 0.7], "channels_jaccard": [1.0], "kl": [0.0, float("nan")]}
    figure = stability([size | {"samples": samples} for samples in (16, 8)], enough)
    draw(figure)
    assert title(figure) == (
        "16 calibration samples are enough" if enough else "No tried number of calibration samples is enough"
    )
    assert figure.axes[0].lines[0].get_ydata()[0] == pytest.approx(0.6)


def test_the_plan_is_marked():
    figure = attention_by_distance(torch.tensor([[2.0, 1.0, 1.0], [3.0, 0.0, 1.0]]), 1)
    assert title(figure) == "75 % of the attention among visual tokens lies within distance 1"
    assert vertical_lines(figure.axes[0]) == [1]
    # 3 tokens in a row: 7 of the 9 pairs are neighbors, or the same
    figure = attention_by_distance(torch.tensor([[2.0, 1.0, 1.0]]), 1, [(1, 1, 3)])
    assert title(figure).endswith("lies within distance 1, as do 78 % of the pairs")
    figure = cross_modal_by_layer(torch.tensor([0.3, 0.3, 0.2]), 2)
    assert title(figure) == "75 % of what text gives to the image, it gives before layer 2"
    assert vertical_lines(figure.axes[0]) == [1.5]


def test_kept_heads_have_a_dot():
    kept = torch.tensor([[True, False], [False, True], [False, False]])
    figure = head_map(torch.rand(3, 2), kept, 2)
    (dots,) = figure.axes[0].collections
    assert dots.get_offsets().tolist() == [[0, 0], [1, 1]]
    assert title(figure) == "2 of 6 heads stay, none from layer 2 on"
    assert any(patch.get_hatch() for patch in figure.axes[0].patches)


def test_kept_channels_are_where_the_scores_say():
    scores = torch.tensor([[1.0, 3.0, 4.0, 2.0], [1.0, 1.0, 1.0, 1.0]])
    kept = torch.tensor([[False, True, True, False], [True, False, False, False]])
    figure = channel_curves(scores, kept, 2)
    (dots,) = figure.axes[0].collections
    assert dots.get_offsets().tolist() == [[0.5, 0.7], [0.25, 0.25]]
    assert figure.axes[0].lines[0].get_ydata().tolist() == pytest.approx([0, 0.4, 0.7, 0.9, 1.0])


def test_curves_say_what_the_plans_setting_costs():
    points = [{"value": value, "kl": 0.1 * value, "agreement": 0.5} for value in (1, 2)]
    assert title(depth_curve(points, 2)) == "Visual depth 2 alone keeps 50.0 % of the answer tokens (KL 0.2)"
    assert title(depth_curve(points, 3)) == title(depth_curve(points)) == "How many layers need the image?"
    figure = radius_curve([*points, {"value": None, "kl": 0.0, "agreement": 1.0}], 2)
    assert vertical_lines(figure.axes[0]) == [1]
    assert [tick.get_text() for tick in figure.axes[1].get_xticklabels()] == ["1", "2", "off"]


@pytest.mark.parametrize(("planned", "places"), [(True, [1]), (False, [])])
def test_no_plan_is_not_a_plan_without_a_radius(planned, places):
    points = [{"value": value, "kl": 0.1, "agreement": 0.5} for value in (1, None)]
    assert vertical_lines(radius_curve(points, None, planned).axes[0]) == places


@pytest.mark.parametrize("lowest", [1.0, 0.995, 0.97, 0.6, 0.0])
def test_no_more_than_all_tokens_agree(lowest):
    points = [{"value": value, "kl": 0.1, "agreement": agreement} for value, agreement in ((1, lowest), (2, 1.0))]
    for figure in (depth_curve(points), ratio_curves({"score": points}, "heads")):
        figure.canvas.draw()
        low, high = figure.axes[1].get_ylim()
        shown = [tick for tick in figure.axes[1].get_yticks() if low <= tick <= high]
        assert max(shown) == pytest.approx(1.0) and len(shown) > 2
        assert low <= lowest <= 1.0 < high
    figure = cross_modal_by_layer(torch.tensor([0.99, lowest]))
    assert max(figure.axes[0].get_yticks()) <= 1.0 + 1e-9


def test_the_score_is_compared_with_the_mean_of_random_choices():
    def at(ratio: float, kl: float) -> dict:
        return {"value": ratio, "kl": kl, "agreement": 1.0}

    score = [at(0.25, 0.2), at(0.5, 0.2), at(1.0, 0.0)]
    random = [at(0.25, 0.1), at(0.25, 0.4), at(0.5, 0.1), at(1.0, 0.0)]
    figure = ratio_curves({"score": score, "random": random}, "heads", 0.5)
    assert title(figure) == "Heads kept by score beat random ones at 1 of 2 ratios"
    assert title(ratio_curves({"score": score}, "channels")) == "Which channels may go?"


def test_the_chosen_plan_is_marked():
    trace = [
        {"plan": "a", "stage": "grid", "cost": 0.2, "kl": 0.5},
        {"plan": "b", "stage": "grid", "cost": 0.3, "kl": 0.1},
        {"plan": "c", "stage": "random", "cost": 0.1, "kl": 0.01},
    ]
    figure = frontier(trace, "b", 0.25)
    assert title(figure) == "The chosen plan costs 30.0 % of the visual FLOPs, at a KL of 0.1"
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == ["tried (2)", "best at its cost", "random", "chosen", "budget 25 %"]
    assert vertical_lines(figure.axes[0]) == [0.25]


def test_costs_are_shares_of_the_base():
    base = {"visual_flops": 200.0, "kv_cache_bytes": 0, "mine": 3.0}
    figure = cost_bars(base, {"visual_flops": 50.0, "kv_cache_bytes": 0, "other": 1.0})
    assert [text.get_text() for text in figure.axes[0].texts] == ["25.0 %, 4.00 times less"]
    draw(figure)
    draw(cost_bars({}, {}))
    draw(cost_bars({"mine": 1.0}, {"mine": 1.5}))


def test_a_kl_of_zero_is_drawn_at_the_floor():
    assert drawn_kl([0.0, 0.5]).tolist() == [KL_FLOOR, 0.5]
    assert np.isnan(drawn_kl([float("nan"), float("inf")])).all()
