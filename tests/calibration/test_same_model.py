"""Scores of another model are refused."""

import pytest
import torch
from toy import toy_batch, toy_llava

from yopo_train.calibration import calibrate
from yopo_train.calibration.same_model import check_same_model
from yopo_train.errors import UserError


@pytest.fixture(scope="module")
def scores():
    return calibrate(toy_llava(2), [toy_batch([["image", 3]])])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_model_passes_whatever_its_type(scores, dtype):
    check_same_model(scores, toy_llava(2).to(dtype), "scores.safetensors")


def test_other_dimensions(scores):
    with pytest.raises(UserError, match=r"^a\.safetensors: scores of a model with .*kv_heads=2.*expected .*kv_heads=4"):
        check_same_model(scores, toy_llava(4), "a.safetensors")


@pytest.mark.parametrize("layer", [0, 3])
def test_other_weights(scores, layer):
    model = toy_llava(2)
    with torch.no_grad():
        model.model.language_model.layers[layer].self_attn.q_proj.weight.normal_(std=0.15)
    with pytest.raises(
        UserError, match=rf"^a\.safetensors: measured on another model, whose weights in layer {layer} "
    ):
        check_same_model(scores, model, "a.safetensors")


def test_another_model_of_the_same_dimensions(scores):
    with pytest.raises(UserError, match="in layer 0 are not those of this model: delete that file, and this"):
        check_same_model(scores, toy_llava(2, seed=1), "a.safetensors")
