"""The named models have the real dimensions, and plans for them meet their budgets."""

import json

import pytest
import torch
from families import FAMILIES

from yopo_train.bench.models import (
    NAMED,
    QuickWeights,
    model_config,
    random_inputs,
    random_model,
    random_plan,
    shape_config,
)
from yopo_train.calibration import PlanConfig
from yopo_train.cost import dense_visual_flops
from yopo_train.errors import UserError
from yopo_train.models import family_of
from yopo_train.models.prompt import prompt_of
from yopo_train.plan import ModelDims


@pytest.mark.parametrize(("name", "tera"), [("llava-1.5-7b", 7.63), ("llava-1.5-13b", 14.89)])
def test_named_models_cost_what_the_paper_says(name, tera):
    config = model_config(name)
    assert shape_config(config, None, 576) == [(1, 24, 24)]
    assert config.vision_config.image_size == 336
    assert round(dense_visual_flops(family_of(config).dims(config), 576) / 1e12, 2) == tera


TYPICAL = {"llava-next-7b": 2928, "llava-onevision-7b": 3699}
TYPICAL |= dict.fromkeys(("internvl2-4b", "internvl2-8b", "internvl2-26b", "internvl3-8b"), 13 * 256)
"""Visual tokens of a typical image, where they are not 576."""


def test_every_named_model_is_built_and_prompted():
    for name in NAMED:
        config = model_config(name)
        typical = family_of(config).typical_tokens(config)
        assert typical == TYPICAL.get(name, 576)
        grids = shape_config(config, 2, typical)
        assert sum(frames * rows * columns for frames, rows, columns in grids) == typical
        model = random_model(config, "bfloat16", torch.device("meta"))
        assert len(family_of(model).text_model(model).layers) == 2
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        assert not model.training and model.config._attn_implementation == "sdpa"


def test_a_checkpoint_in_the_layout_of_its_authors_is_to_be_converted_first(tmp_path):
    """Without a question whether to run its code."""
    config = {"model_type": "internvl_chat", "architectures": ["InternVLChatModel"], "auto_map": {"AutoConfig": "c.C"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="convert it, yopo-train convert internvl2"):
        model_config(str(tmp_path))


def test_large_weights_are_filled_quickly_with_numbers_of_the_usual_size(monkeypatch):
    monkeypatch.setattr(QuickWeights, "PERIOD", 101)
    config = FAMILIES["llava"].toy().config
    model = random_model(config, "float32", torch.device("cpu"))
    for name, weight in model.named_parameters():
        if weight.dim() == 2 and weight.numel() > 1000 and "class" not in name:
            assert torch.equal(weight.flatten()[101:202], weight.flatten()[202:303]), name
            assert len(weight.unique(dim=0)) == len(weight), name
            assert 0.01 < weight.std() < 0.03, name


@pytest.mark.parametrize(("preset", "share"), [("paper-25", 0.25), ("paper-12", 0.12)])
@pytest.mark.parametrize("layers", [None, 4])
def test_presets_fit_slices_too(preset, share, layers):
    """Half of the layers are text only, in a slice as in the whole."""
    config = model_config("llava-1.5-7b")
    grids = shape_config(config, layers, 576)
    dims = family_of(config).dims(config)
    plan = random_plan(dims, PlanConfig(preset=preset), grids)
    assert plan.depth == dims.layers // 2
    assert 0.97 * share < plan.cost["visual_share"] <= share
    assert plan.made_by["choice"] == "random" and "scores" not in plan.made_by


@pytest.mark.parametrize(
    ("name", "grid"), [("qwen2-vl-7b", (1, 24, 24)), ("qwen2.5-vl-7b", (1, 24, 24)), ("qwen3-vl-8b", (1, 24, 24))]
)
def test_qwen_models_have_the_dimensions_of_their_checkpoints(name, grid):
    """FLOPs by hand: 2n(2d(h + kv)head_dim + 3dm) + 4n^2 h head_dim a layer."""
    config = model_config(name)
    assert shape_config(config, None, 576) == [grid]
    dims, n = family_of(config).dims(config), 576
    expected = {"qwen2-vl-7b": (28, 3584, 18944, 28, 4, 128), "qwen3-vl-8b": (36, 4096, 12288, 32, 8, 128)}
    layers, d, m, h, kv, head_dim = expected.get(name, expected["qwen2-vl-7b"])
    by_hand = layers * (2 * n * (2 * d * (h + kv) * head_dim + 3 * d * m) + 4 * n**2 * h * head_dim)
    assert dense_visual_flops(dims, n) == by_hand


@pytest.mark.parametrize("name", FAMILIES)
def test_random_inputs_of_every_family_are_one_prompt_that_the_model_takes(name):
    config = FAMILIES[name].toy().config
    if name == "llava_onevision":
        config.vision_aspect_ratio = "anyres_max_9"  # as in the checkpoints; the toy's own shrinks 2 x 2 tiles
    visual_tokens = 51 if name in ("llava_next", "llava_onevision") else 36  # 3 x 3, and 2 x 2 of them with newlines
    grids = shape_config(config, 2, visual_tokens)
    model = random_model(config, "float32", torch.device("cpu"))
    inputs = random_inputs(model, grids, 8, batch=2)
    prompt = prompt_of(model, inputs)
    assert (prompt.grids, prompt.visual_tokens, prompt.text_tokens) == (grids, visual_tokens, 8)
    assert set(prompt.text_before) == {2}
    assert model(**inputs).logits.isfinite().all()


@pytest.mark.parametrize(
    ("name", "dims", "billions", "tower"),
    [
        ("internvl2-4b", (32, 3072, 8192, 32, 32, 96), 4.15, 0.30),
        ("internvl2-8b", (32, 4096, 14336, 32, 8, 128), 8.08, 0.30),
        ("internvl2-26b", (48, 6144, 16384, 48, 8, 128), 25.51, 5.54),
    ],
)
def test_internvl2_has_the_dimensions_of_its_checkpoints(name, dims, billions, tower):
    """And so as many parameters, in billions."""
    config = model_config(name)
    assert family_of(config).dims(config) == ModelDims(*dims)
    model = random_model(config, "bfloat16", torch.device("meta"))
    for module, expected in ((model, billions), (model.model.vision_tower, tower)):
        assert round(sum(weight.numel() for weight in module.parameters()) / 1e9, 2) == expected


@pytest.mark.parametrize(("tokens", "grid"), [(1, (1, 1, 1)), (12, (1, 3, 4)), (1000, (1, 25, 40)), (7, (1, 1, 7))])
def test_images_of_any_size_are_as_square_as_can_be(tokens, grid):
    assert shape_config(model_config("qwen2-vl-7b"), None, tokens) == [grid]


def test_random_inputs_are_one_prompt(tiny_vlm):
    config = model_config(str(tiny_vlm))
    grids = shape_config(config, 1, 9)
    model = random_model(config, "float32", torch.device("cpu"))
    inputs = random_inputs(model, grids, 8, batch=2)
    prompt = prompt_of(model, inputs)
    assert (prompt.grids, prompt.text_tokens, prompt.text_before) == ([(1, 3, 3)], 8, [2])
    assert inputs["pixel_values"].shape == (2, 3, 24, 24)
    assert model(**inputs).logits.isfinite().all()
