"""The benchmark: both models run, the numbers belong together, and the model is left as it was. No time is asserted."""

import json

import pytest
import torch
from toy import random_plan, toy_batch, toy_dims, toy_llava

from yopo_train.bench import Times, bench, measure_prefill, random_model, unscored_plan
from yopo_train.errors import UserError
from yopo_train.pruning import active_plan


def test_median_and_90th_percentile():
    times = Times.of([(float(i), 2.0 * i) for i in range(1, 11)])
    assert (times.prefill, times.prefill_p90, times.total, times.total_p90) == (5.5, 9.0, 11.0, 18.0)


def test_measure_prefill_leaves_the_model_as_it_was():
    model = toy_llava()
    batch = toy_batch([[3, "image", 4]] * 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = measure_prefill(model, batch, random_plan(toy_dims(model), 2, 1), repeats=3, warmup=1)
    assert active_plan(model) is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert (result.visual_tokens, result.text_tokens, result.batch, result.repeats) == (16, 7, 2, 3)
    assert 0 < result.base.prefill <= result.base.total
    assert result.pruned_flops < result.base_flops
    assert result.efficiency == pytest.approx(result.speedup * result.pruned_flops / result.base_flops)


def test_command_prints_a_table_and_writes_json(tiny_vlm, tmp_path, capsys):
    file = tmp_path / "bench.json"
    bench(str(tiny_vlm), visual_tokens=64, text_tokens=8, repeats=1, json_file=file)
    assert "64 visual and 8 text tokens" in capsys.readouterr().out
    assert json.loads(file.read_text())["visual_tokens"] == 64


def test_presets_of_the_real_models_meet_their_budget():
    """At the dimensions of LLaVA-1.5-7B half of the layers keep about half of everything for 25 %."""
    with torch.device("meta"):
        config_model = random_model("llava-1.5-7b", visual_tokens=576, dtype="bfloat16")
    dims = toy_dims(config_model)
    assert (dims.layers, dims.hidden, dims.intermediate, dims.heads) == (32, 4096, 11008, 32)
    plan = unscored_plan(dims, "paper-25", None, (1, 24, 24))
    assert plan.depth == 16 and 0.24 < plan.cost["visual_share"] <= 0.25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"visual_tokens": 500}, "--visual-tokens is 500, expected a square number"),
        ({"model": "gpt-7"}, "--model is 'gpt-7'"),
        ({"layers": 99}, "--layers is 99, expected 1 to 8"),
        ({"dtype": "float99"}, "--dtype is 'float99'"),
        ({"batch": 0}, "at least 1"),
    ],
)
def test_bad_options(tiny_vlm, options, message):
    with pytest.raises(UserError, match=message):
        bench(**{"model": str(tiny_vlm), "visual_tokens": 16, **options})
