"""LoRA lands on the language model only, and its folder is a standard peft adapter in base order."""

import json
import warnings

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from toy import random_plan, text_logits, toy_batch, toy_dims, toy_llava

from yopo_train.errors import UserError
from yopo_train.pruning import dense_mode, prune
from yopo_train.recovery import LoraOptions, attach_lora, load_adapter, lora_targets, save_adapter

BATCH = toy_batch([[3, "image", 5], [2, "image", 4]])


def with_random_adapter(model, **options):
    """Attach, and fill B, which starts at zero."""
    model = attach_lora(model, LoraOptions(r=2, **options)).eval()
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.1, generator=generator)
    return model


def adapted(model) -> set[str]:
    return {name.split(".lora_A")[0] for name, _ in model.named_modules() if name.endswith(".lora_A")}


@pytest.mark.parametrize(
    ("targets", "layers"),
    [(None, 4 * 7), (["q_proj", "v_proj"], 4 * 2), (r".*language_model\.layers\.[01]\.mlp\.down_proj", 2)],
)
def test_only_the_language_model_gets_an_adapter(targets, layers):
    names = adapted(attach_lora(toy_llava(), LoraOptions(r=2, target_modules=targets)))
    assert len(names) == layers
    assert all("language_model" in name for name in names)


def test_everything_but_the_adapter_is_frozen():
    model = attach_lora(toy_llava(), LoraOptions(r=2))
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == {
        name for name, _ in model.named_parameters() if "lora_" in name
    }


@pytest.mark.parametrize("targets", [["nothing"], "nothing", "(unclosed"])
def test_targets_that_match_nothing_are_refused(targets):
    with pytest.raises(UserError, match="target_modules"):
        lora_targets(toy_llava(), LoraOptions(target_modules=targets))


def test_plain_peft_loads_the_adapter_of_a_pruned_model_onto_the_dense_one(tmp_path):
    model = toy_llava()
    prune(model, random_plan(toy_dims(model), depth=3, radius=1))
    model = with_random_adapter(model)
    save_adapter(model, tmp_path / "adapter", "org/base", "v1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")  # peft 0.21 on transformers 5.23
        plain = PeftModel.from_pretrained(toy_llava(), tmp_path / "adapter").eval()
    with dense_mode(model):
        expected = text_logits(model, BATCH)
    torch.testing.assert_close(text_logits(plain, BATCH), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, text_logits(toy_llava(), BATCH), atol=1e-2)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/base", "v1")


def test_the_adapter_comes_back_at_pruned_speed(tmp_path):
    model = toy_llava()
    plan = random_plan(toy_dims(model), depth=3, radius=1)
    trained = with_random_adapter(prune(model, plan))
    save_adapter(trained, tmp_path / "adapter", "org/base", None)
    loaded = load_adapter(prune(toy_llava(), plan), tmp_path / "adapter")
    torch.testing.assert_close(text_logits(loaded, BATCH), text_logits(trained, BATCH), atol=1e-6, rtol=1e-6)
    late = prune(load_adapter(toy_llava(), tmp_path / "adapter"), plan)
    torch.testing.assert_close(text_logits(late, BATCH), text_logits(trained, BATCH), atol=1e-6, rtol=1e-6)


def test_an_adapter_that_does_not_fit_is_refused(tmp_path):
    folder = tmp_path / "adapter"
    with pytest.raises(UserError, match="no adapter_model"):
        load_adapter(toy_llava(), folder)
    save_adapter(with_random_adapter(toy_llava()), folder, "org/base", None)
    with pytest.raises(UserError, match="lora_A"):
        load_adapter(toy_llava(layers=3), folder)
    with pytest.raises(UserError, match="missing"):
        load_adapter(toy_llava(layers=5), folder)
    weights = load_file(folder / "adapter_model.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(UserError, match="missing"):
        load_adapter(toy_llava(), folder)
    (folder / "adapter_model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="does not fit"):
        load_adapter(toy_llava(), folder)


def test_an_adapter_of_an_unknown_type(tmp_path):
    save_adapter(with_random_adapter(toy_llava()), tmp_path / "adapter", "org/base", None)
    settings = tmp_path / "adapter" / "adapter_config.json"
    settings.write_text(settings.read_text().replace('"LORA"', '"MAGIC"'))
    with pytest.raises(UserError, match="does not fit"):
        load_adapter(toy_llava(), tmp_path / "adapter")
