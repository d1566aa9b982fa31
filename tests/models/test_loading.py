"""Loading a base model: what comes back, and one clear line for everything that is not one."""

import json
import shutil

import pytest
import torch
from transformers import BertConfig, LlavaForConditionalGeneration

from yopo_train.errors import UserError
from yopo_train.models import family_of, load_base


def test_model_and_processor_of_a_folder(tiny_vlm):
    model, processor = load_base(tiny_vlm, dtype="bfloat16")
    assert isinstance(model, LlavaForConditionalGeneration) and not model.training
    assert model.dtype == torch.bfloat16
    assert processor.image_token == "<image>"


def copy_without(folder, target, *patterns):
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(*patterns))
    return target


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (["config.json"], "cannot load the config.json of"),
        (["processor_config.json", "tokenizer*"], "processor"),
        (["model.safetensors"], "cannot load the weights of"),
    ],
)
def test_folder_with_a_missing_part(tiny_vlm, tmp_path, missing, message):
    folder = copy_without(tiny_vlm, tmp_path / "broken", *missing)
    with pytest.raises(UserError, match=message) as error:
        load_base(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_weights_that_the_config_asks_for_and_the_folder_lacks(tiny_vlm, tmp_path):
    """transformers would make them up at random."""
    folder = copy_without(tiny_vlm, tmp_path / "broken")
    config = json.loads((folder / "config.json").read_text())
    layers = config["text_config"]["num_hidden_layers"]
    config["text_config"]["num_hidden_layers"] = layers + 1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=rf"lacks \d+ weights .* model.language_model.layers.{layers}\."):
        load_base(folder)


def test_damaged_weights(tiny_vlm, tmp_path):
    folder = copy_without(tiny_vlm, tmp_path / "broken")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot load the weights"):
        load_base(folder)


def test_unknown_path(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # else it would look for half a minute
    with pytest.raises(UserError, match="'no/such-model'"):
        load_base("no/such-model")


def test_unknown_dtype(tiny_vlm):
    with pytest.raises(UserError, match="dtype is 'int3', expected one of: auto, float32"):
        load_base(tiny_vlm, dtype="int3")


def test_unsupported_family_lists_the_supported_ones():
    with pytest.raises(UserError, match="model type 'bert' is not supported, expected one of: llava"):
        family_of(BertConfig())
