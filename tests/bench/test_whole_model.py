"""From a slice to the whole model, and the growth of a sweep."""

import pytest
from toy import random_plan

from yopo_train.bench.results import growth_exponent
from yopo_train.bench.timer import Timing
from yopo_train.bench.whole_model import extrapolate
from yopo_train.cost import Prompt, layer_flops, prefill_flops
from yopo_train.plan import ModelDims, PruningPlan

SLICE, WHOLE = (ModelDims(layers, 16, 24, 4, 4, 4) for layers in (4, 8))
PROMPT = Prompt([(1, 4, 4)], 7, [3])


def times(prefill: float, layers: list[float]) -> dict[str, Timing]:
    laps = {"prefill": prefill, **{f"layer {number}": value for number, value in enumerate(layers)}}
    return {lap: Timing(value, value) for lap, value in laps.items()}


def test_each_kind_of_layer_keeps_its_rate():
    plan, whole = random_plan(SLICE, 2, None), random_plan(WHOLE, 5, None, seed=3, channels=0.8)
    found = {"base": times(45.0, [10.0] * 4), "pruned": times(20.0, [6.0, 3.0, 2.0, 2.0])}
    result = extrapolate(found, plan, whole, PROMPT, vocab=11)
    assert result.base == pytest.approx(5 + 80)
    visual = sum(layer_flops(whole, PROMPT)[:5]) / sum(layer_flops(plan, PROMPT)[:2]) * 9
    assert result.pruned == pytest.approx(7 + visual + 3 * 2)
    dense = PruningPlan.dense(WHOLE)
    assert result.flops_ratio == prefill_flops(dense, PROMPT, 11) / prefill_flops(whole, PROMPT, 11)
    assert result.layers == 8
    assert result.as_dict()["efficiency"] == pytest.approx(result.base / result.pruned / result.flops_ratio)


def test_a_slice_that_is_the_whole_stays_what_was_measured():
    plan = random_plan(SLICE, 3, 1)
    found = {"base": times(45.0, [10.0] * 4), "pruned": times(20.0, [6.0, 3.0, 2.0, 2.0])}
    result = extrapolate(found, plan, plan, PROMPT, vocab=11)
    assert (result.base, result.pruned) == pytest.approx((45.0, 20.0))


def test_a_kind_of_layer_that_was_not_seen_is_not_made_up():
    found = {"base": times(45.0, [10.0] * 4), "pruned": times(20.0, [5.0] * 4)}
    assert extrapolate(found, random_plan(SLICE, 4, None), random_plan(WHOLE, 5, None), PROMPT, 11) is None


def test_growth_exponent():
    tokens = [576, 2304, 9216]
    assert growth_exponent(tokens, [3.0 * n**1.7 for n in tokens]) == pytest.approx(1.7)
    assert growth_exponent([1, 2, 4], [1.0, 4.0, 4.0]) == pytest.approx(1.0)
