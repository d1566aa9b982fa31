"""The named models have the real dimensions, and plans for them meet their budgets."""

import pytest
import torch

from yopo_train.bench.models import NAMED, model_config, random_inputs, random_model, random_plan, shape_config
from yopo_train.calibration import PlanConfig
from yopo_train.cost import dense_visual_flops
from yopo_train.models import family_of
from yopo_train.models.prompt import prompt_of


@pytest.mark.parametrize(("name", "tera"), [("llava-1.5-7b", 7.63), ("llava-1.5-13b", 14.89)])
def test_named_models_cost_what_the_paper_says(name, tera):
    config = model_config(name)
    assert shape_config(config, None, 576) == (1, 24, 24)
    assert config.vision_config.image_size == 336
    assert round(dense_visual_flops(family_of(config).dims(config), 576) / 1e12, 2) == tera


def test_every_named_model_is_built_and_prompted():
    for name in NAMED:
        config = model_config(name)
        shape_config(config, 2, 4)
        model = random_model(config, "bfloat16", torch.device("meta"))
        assert len(family_of(model).text_model(model).layers) == 2
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        assert not model.training and model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(("preset", "share"), [("paper-25", 0.25), ("paper-12", 0.12)])
@pytest.mark.parametrize("layers", [None, 4])
def test_presets_fit_slices_too(preset, share, layers):
    """Half of the layers are text only, in a slice as in the whole."""
    config = model_config("llava-1.5-7b")
    grid = shape_config(config, layers, 576)
    dims = family_of(config).dims(config)
    plan = random_plan(dims, PlanConfig(preset=preset), grid)
    assert plan.depth == dims.layers // 2
    assert 0.97 * share < plan.cost["visual_share"] <= share
    assert plan.made_by["choice"] == "random" and "scores" not in plan.made_by


def test_random_inputs_are_one_prompt(tiny_vlm):
    config = model_config(str(tiny_vlm))
    shape_config(config, 1, 9)
    model = random_model(config, "float32", torch.device("cpu"))
    inputs = random_inputs(model, 9, 8, batch=2)
    prompt = prompt_of(model, inputs)
    assert (prompt.grids, prompt.text_tokens, prompt.text_before) == ([(1, 3, 3)], 8, [2])
    assert inputs["pixel_values"].shape == (2, 3, 24, 24)
    assert model(**inputs).logits.isfinite().all()
