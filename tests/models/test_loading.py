"""Loading a base model: what comes back, and one clear line for everything that is not one."""

import json
import shutil

import pytest
import torch
from families import internvl, llava_next, llava_onevision, qwen2_5_vl, qwen2_vl, qwen3_vl
from PIL import Image
from transformers import BertConfig, LlavaForConditionalGeneration

from yopo_train.errors import UserError
from yopo_train.models import FAMILIES, family_of, load_base


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
    expected = r"model type 'bert' is not supported, expected one of: llava, .*internvl.* one file, .*/bert.py"
    with pytest.raises(UserError, match=expected):
        family_of(BertConfig())


def edit(file, **changes):
    """Change a JSON file; a key that is None goes."""
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_transformers_that_does_not_know_a_supported_family(tiny_vlm, tmp_path, monkeypatch):
    folder = copy_without(tiny_vlm, tmp_path / "newer")
    edit(folder / "config.json", model_type="llava_of_tomorrow")
    monkeypatch.setattr(FAMILIES[0], "model_types", ("llava", "llava_of_tomorrow"), raising=False)
    with pytest.raises(UserError, match=r"transformers \d\S+ is too old for .*'llava_of_tomorrow'"):
        load_base(folder)


@pytest.mark.parametrize(
    ("architecture", "command"),
    [("InternVLChatModel", "convert internvl2"), ("LlavaLlamaForCausalLM", "convert llava")],
)
def test_layout_of_the_authors_names_its_converter(tiny_vlm, tmp_path, architecture, command):
    folder = copy_without(tiny_vlm, tmp_path / "original")
    edit(folder / "config.json", architectures=[architecture])
    with pytest.raises(UserError, match=f"{architecture}.* yopo-train {command} {folder} FOLDER"):
        load_base(folder)


def test_processor_of_another_family(tiny_vlm, tmp_path):
    folder = copy_without(tiny_vlm, tmp_path / "mixed")
    edit(folder / "processor_config.json", processor_class="LlavaNextProcessor")
    with pytest.raises(UserError, match=r"another family: LlavaNextProcessor, expected LlavaProcessor .*'llava'"):
        load_base(folder)


@pytest.mark.parametrize(
    ("token", "message"), [("<picture>", "has no token '<picture>'"), ("</s>", "has '</s>' as token 2, but .* is 3")]
)
def test_image_token_that_the_tokenizer_does_not_have(tiny_vlm, tmp_path, token, message):
    folder = copy_without(tiny_vlm, tmp_path / "mixed")
    edit(folder / "tokenizer_config.json", image_token=None, extra_special_tokens=None)
    edit(folder / "processor_config.json", image_token=token)
    with pytest.raises(UserError, match=f"the tokenizer of {folder} {message}"):
        load_base(folder)


def test_missing_shard(tmp_path):
    llava_next.toy().save_pretrained(tmp_path, max_shard_size="100KB")
    llava_next.toy_processor().save_pretrained(tmp_path)
    (tmp_path / "model-00002-of-00004.safetensors").unlink()
    with pytest.raises(UserError, match=r"cannot load the weights of .*: .*model-00002-of-00004\.safetensors") as error:
        load_base(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("older_layout", [False, True], ids=["one file", "files of older checkpoints"])
@pytest.mark.parametrize(
    "family",
    [llava_next, llava_onevision, internvl, qwen2_vl, qwen2_5_vl, qwen3_vl],
    ids=lambda each: each.__name__,
)
def test_images_work_without_torchvision(family, older_layout, tmp_path, monkeypatch):
    """transformers' own `AutoProcessor` wants a video processor too, and refuses where it cannot have one."""
    monkeypatch.setattr("yopo_train.models.processors.is_torchvision_available", lambda: False)
    family.toy().save_pretrained(tmp_path)
    family.toy_processor().save_pretrained(tmp_path)
    if older_layout:
        image_processor = json.loads((tmp_path / "processor_config.json").read_text())["image_processor"]
        edit(tmp_path / "processor_config.json", image_processor=None)
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(image_processor))
    model, processor = load_base(tmp_path)
    assert not hasattr(processor, "video_processor")
    image, prompt = Image.new("RGB", (20, 15)), f"a {processor.image_token} b"
    batch = processor(images=[image], text=[prompt], return_tensors="pt")
    expected = family.toy_processor()(images=[image], text=[prompt], return_tensors="pt")
    torch.testing.assert_close(dict(batch), dict(expected))
    assert model(**batch).logits.isfinite().all()
