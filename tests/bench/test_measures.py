"""A comparison: everything asked for is there, the numbers belong together, and the model is left as it was."""

import json

import pytest
import torch
from toy import random_plan, toy_batch, toy_dims, toy_llava

from yopo_train.bench import Options, compare
from yopo_train.bench.call import TimedCall
from yopo_train.bench.memory import peak_bytes
from yopo_train.bench.report import report
from yopo_train.bench.results import LAPS
from yopo_train.bench.timer import Stopwatch
from yopo_train.bench.training import answer_labels
from yopo_train.errors import UserError
from yopo_train.pruning import active_plan


@pytest.fixture(scope="module")
def everything():
    """Model, its weights before, ticks of the bar, options and result of one comparison with all there is."""
    model = toy_llava(kv_heads=2)
    before, names = {name: x.clone() for name, x in model.state_dict().items()}, [n for n, _ in model.named_modules()]
    batch, ticks = toy_batch([[3, "image", 8]] * 2), []
    plan = random_plan(toy_dims(model), 3, 1)
    options = Options(repeats=2, warmup=1, decode=2, train=True, reference=True, calibration=True, whole=plan)
    result = compare(model, batch, plan, options, lambda: ticks.append(1))
    assert [name for name, _ in model.named_modules()] == names and not model.training
    return model, before, ticks, options, result


def test_the_model_is_left_as_it_was(everything):
    model, before, *_ = everything
    assert active_plan(model) is None
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_calibration_beside_a_plain_forward_pass(everything):
    *_, result = everything
    cost = result.calibration
    assert cost.ratio == cost.calibration.median / cost.forward.median > 0
    assert f"{cost.ratio:.2f}x a plain forward pass" in report(result)
    assert json.loads(json.dumps(result.as_dict()))["calibration"]["ratio"] == cost.ratio


def test_every_lap_of_every_contender(everything):
    *_, ticks, options, result = everything
    assert len(ticks) == options.turns == 3 * (3 * 2 + 2)
    laps = {name: set(row.times) for name, row in result.rows.items()}
    assert laps == {"base": set(LAPS), "pruned": set(LAPS), "reference": set(LAPS) - {"decode"}}
    for row in result.rows.values():
        assert all(0 < timing.median <= timing.p90 for timing in row.times.values())
    assert (result.visual_tokens, result.text_tokens, result.batch, result.repeats) == (16, 11, 2, 2)


def test_sizes_agree_with_the_formulas(everything):
    base, pruned, reference = (everything[-1].rows[name] for name in ("base", "pruned", "reference"))
    for row in (base, pruned):
        assert row.counted == pytest.approx(row.flops, rel=0.01)
        assert row.cache_bytes == row.cache_formula
    assert pruned.flops < base.flops and pruned.cache_bytes < base.cache_bytes
    assert base.weight_bytes == pruned.weight_bytes == reference.weight_bytes
    assert reference.cache_bytes is None and reference.computed >= base.computed > pruned.computed
    assert base.peak_bytes > base.weight_bytes + base.cache_bytes
    assert base.train_flops > pruned.train_flops > 2 * pruned.computed / 3
    assert base.train_peak_bytes > pruned.train_peak_bytes > pruned.weight_bytes
    assert 0 < everything[-1].visual_cache_share < 1


def test_derived_numbers(everything):
    result = everything[-1]
    base, pruned = (result.rows[name].times["prefill"].median for name in ("base", "pruned"))
    assert result.speedup() == base / pruned
    assert result.efficiency == pytest.approx(result.speedup() * pruned_share(result, "flops"))
    assert result.train_efficiency == pytest.approx(result.speedup("train") * pruned_share(result, "train_flops"))
    assert result.whole_model.base == pytest.approx(base, rel=1)
    found = json.loads(json.dumps(result.as_dict()))
    assert found["base"]["prefill"] == base and found["base"]["prefill_p90"] >= base
    assert found["speedup"] == result.speedup() and found["whole_model"]["layers"] == 4
    assert "decode" not in found["reference"] and "cache_bytes" not in found["reference"]


def test_the_report_names_all_of_it(everything):
    result = everything[-1]
    lines = report(result).splitlines()
    header = next(line for line in lines if "LLM prefill ms" in line)
    for part in ("vision tower ms", "first token ms", "decode ms/token", "LoRA step ms"):
        assert part in header
    reference = next(line for line in lines if line.startswith("| reference"))
    assert reference.count("|") == header.count("|") and "| - |" in " ".join(reference.split())
    for part in ("LoRA step: ", "masks in the stock model", "extrapolated from this slice, not measured", "efficiency"):
        assert any(part in line for line in lines), part


def pruned_share(result, field: str) -> float:
    return getattr(result.rows["pruned"], field) / getattr(result.rows["base"], field)


def test_only_what_is_asked_for():
    model = toy_llava()
    result = compare(model, toy_batch([["image", 2]]), random_plan(toy_dims(model), 2, None), Options(1, 0))
    assert {name: set(row.times) for name, row in result.rows.items()} == {
        name: {"vision", "prefill", "first_token"} for name in ("base", "pruned")
    }
    assert result.train_efficiency is None and result.whole_model is None
    assert "train_flops" not in result.as_dict()["base"] and "whole_model" not in result.as_dict()


def test_the_language_model_alone():
    model, towers = toy_llava(), []
    model.model.vision_tower.register_forward_pre_hook(lambda *_: towers.append(1))
    batch, plan = toy_batch([[3, "image", 4]]), random_plan(toy_dims(model), 2, 1)
    result = compare(model, batch, plan, Options(3, vision=False, decode=1, train=True, whole=plan))
    assert {lap for row in result.rows.values() for lap in row.times} == {"prefill", "decode", "train"}
    assert len(towers) == 2 + 2  # once for each contender's call, and for its LoRA step
    assert result.rows["pruned"].cache_bytes == result.rows["pruned"].cache_formula
    assert result.whole_model is not None and "| vision" not in report(result)


def test_memory_of_the_language_model_alone_has_the_embedded_tokens_in_it():
    model, batch = toy_llava().bfloat16(), toy_batch([[3, "image", 4]])  # in float32 a cast would lead to them anyway
    batch["pixel_values"] = batch["pixel_values"].bfloat16()
    result = compare(model, batch, random_plan(toy_dims(model), 2, 1), Options(1, 0, vision=False))
    call = TimedCall(model, batch, cached=True, vision=False, decode=0, by_layer=False)
    ids_and_pixels = peak_bytes(model, batch.values(), call.run)
    embedded = call.language_model.inputs["inputs_embeds"].nbytes
    assert result.rows["base"].peak_bytes >= ids_and_pixels + embedded


def test_what_is_in_front_of_the_language_model_runs_untimed():
    model, order = toy_llava(), []
    model.model.vision_tower.register_forward_pre_hook(lambda *_: order.append("vision"))
    call = TimedCall(model, toy_batch([["image", 2]]), cached=True, vision=False, decode=0, by_layer=False)
    watch = Stopwatch(torch.device("cpu"), clock=lambda: order.append("clock") or 0.0)
    for measure in call.measures():
        measure(watch)
    assert order == ["vision", "clock", "clock"] and watch.laps.keys() == {"prefill"}


def test_labels_stand_on_the_last_text():
    batch = toy_batch([[3, "image", 8]] * 2)
    labels = answer_labels(toy_llava(), batch)
    assert torch.equal(labels[:, -2:], batch["input_ids"][:, -2:]) and (labels[:, :-2] == -100).all()
    with pytest.raises(UserError, match="--train needs text behind the image, found 1"):
        answer_labels(toy_llava(), toy_batch([[3, "image", 1]]))
