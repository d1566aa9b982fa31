"""Every option of the adapter under a plan: the engine computes it, it is trained, and it comes back."""

import dataclasses
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel
from toy import random_plan, text_logits, toy_batch, toy_dims, toy_llava
from toy_training import labelled_batch
from transformers import Qwen2Config

from yopo_train.cli_errors import one_line
from yopo_train.errors import UserError
from yopo_train.pruning import active_plan, prune
from yopo_train.recovery import LoraOptions, attach_lora, load_adapter, lora_targets, save_adapter
from yopo_train.recovery.lora_options import CHANGES_BASE, REFUSED
from yopo_train.recovery.loss import answer_loss

BATCH = toy_batch([[3, "image", 5], [2, "image", 4]])
OPTIONS = {
    "projector": {"projector": True},
    "layers": {"layers_to_transform": [0, 2], "target_modules": ["q_proj", "down_proj"]},
    "patterns": {"rank_pattern": {"q_proj": 4}, "use_rslora": True, "exclude_modules": ["up_proj"]},
    "dora": {"use_dora": True},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "mica": {"init_lora_weights": "mica"},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "biases": {"bias": "lora_only"},
    "all biases": {"bias": "all"},
    "bias in B": {"lora_bias": True},
    "modules": {"modules_to_save": ["multi_modal_projector", "embed_tokens", "lm_head", "input_layernorm"]},
    "tokens": {"trainable_token_indices": [5, 7]},
}


def toy():
    """With biases, as Qwen2 has them."""
    model = toy_llava(kv_heads=2, layers=3, vision_layers=2)
    config = model.config
    text = Qwen2Config(**{k: v for k, v in config.text_config.to_dict().items() if k in TEXT})
    torch.manual_seed(0)
    config.text_config = text
    model = type(model)(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15 if parameter.dim() > 1 else 0.5)
    return model


TEXT = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
TEXT += ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")


def pruned():
    model = toy()
    return prune(model, random_plan(toy_dims(model), depth=2, radius=1))


def moved(model, std=0.05):
    """After a step of random size: what was zero no longer is."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += std * torch.randn(weight.shape, generator=generator)
    return model.eval()


@pytest.fixture(autouse=True)
def silent():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*cannot be sliced")  # dora, mica
        warnings.filterwarnings("ignore", message=".*lora_bias=True. was passed")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
        warnings.filterwarnings("ignore", message=".*disabling adapter layers with bias")
        yield


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_under_a_plan(name, tmp_path):
    torch.manual_seed(0)
    options = LoraOptions(r=2, **OPTIONS[name])
    model = attach_lora(pruned(), options)
    plan = active_plan(model)
    answer_loss(model.train(), labelled_batch()).backward()
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    without = [name for name, weight in trained.items() if weight.grad is None and "vision_tower" not in name]
    assert trained and not without
    moved(model)
    compact = text_logits(model, BATCH)
    without = text_logits(pruned(), BATCH)
    assert (compact - without).abs().max() > 1e-2
    with model.disable_adapter():
        assert torch.allclose(text_logits(model, BATCH), without, atol=1e-5) is (options.changes_base is None)
    assert (options.changes_base is not None) is (name in (*CHANGES_BASE, "biases", "all biases"))

    save_adapter(model, tmp_path / "adapter", "org/base", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing|.*lora_bias=True. was passed")
        plain = PeftModel.from_pretrained(toy(), tmp_path / "adapter").eval()
    dense = text_logits(plain, BATCH)
    loaded = load_adapter(pruned(), tmp_path / "adapter")
    torch.testing.assert_close(text_logits(loaded.eval(), BATCH), compact, atol=1e-4, rtol=1e-4)
    prune(model, plan, "reference")
    expected = text_logits(model, BATCH, use_cache=False)
    torch.testing.assert_close(compact, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(text_logits(prune(plain, plan), BATCH), compact, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(dense, compact, atol=1e-2)


def test_the_projector_and_only_it():
    names = {name for name, _ in attach_lora(toy(), LoraOptions(r=2, projector=True)).named_modules()}
    adapted = {name.removesuffix(".lora_A") for name in names if name.endswith(".lora_A")}
    assert {name.split(".")[-1] for name in adapted if "language_model" not in name} == {"linear_1", "linear_2"}
    assert sum("language_model" in name for name in adapted) == 3 * 7


def test_every_field_of_peft_is_an_option_or_refused_with_a_reason():
    ours = {field.name for field in dataclasses.fields(LoraOptions)} - {"projector"}
    of_every_adapter = {"task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path"}
    theirs = {field.name for field in dataclasses.fields(LoraConfig)} - of_every_adapter
    assert theirs - {"revision", "inference_mode"} == ours | REFUSED.keys()
    assert not ours & REFUSED.keys()
    message = one_line("Option 'model.lora.layer_replication' is not accepted")
    assert message == f"unknown key model.lora.layer_replication: {REFUSED['layer_replication']}"
    typed = one_line("unrecognized arguments: --model.lora.layer_replication=[[0,1]]")
    assert typed.endswith(f"[[0,1]]: {REFUSED['layer_replication']}")


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"layers_to_transform": [3]}, "names layer 3, expected 0 to 2"),
        ({"modules_to_save": ["nothing"]}, "names 'nothing', but no module"),
        ({"modules_to_save": ["q_proj"]}, "attention and FFN"),
        ({"modules_to_save": ["language_model"]}, "attention and FFN"),
        ({"modules_to_save": ["mlp"]}, "attention and FFN"),
        ({"lora_bias": True, "use_dora": True}, r"section model\.lora: .*DoRA"),
    ],
)
def test_what_does_not_fit_the_model(options, culprit):
    with pytest.raises(UserError, match=culprit):
        attach_lora(toy(), LoraOptions(r=2, **options))


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"layers_to_transform": [-1]}, r"lora\.layers_to_transform is \[-1\]"),
        ({"layers_to_transform": [0], "target_modules": ".*q_proj"}, "null beside a regular expression"),
        ({"projector": True, "target_modules": ".*q_proj"}, "false beside a regular expression"),
        ({"modules_to_save": []}, r"lora\.modules_to_save is \[\]"),
        ({"trainable_token_indices": [5, -1]}, r"lora\.trainable_token_indices is \[5, -1\]"),
        ({"alpha_pattern": {"q_proj": 0}}, r"lora\.alpha_pattern is \{'q_proj': 0\}, expected integers >= 1"),
        ({"r": 3, "init_lora_weights": "orthogonal"}, "where r is odd"),
    ],
)
def test_what_does_not_go_together(options, culprit):
    with pytest.raises(UserError, match=culprit):
        LoraOptions(**options)


def test_half_precision_weights_get_an_adapter_in_float32():
    model = toy().to(torch.bfloat16)
    tuned = attach_lora(prune(model, random_plan(toy_dims(model), 3, 1)), LoraOptions(r=2, projector=True))
    assert {w.dtype for w in tuned.parameters() if w.requires_grad} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        batch = {**labelled_batch()}
        answer_loss(tuned.train(), batch | {"pixel_values": batch["pixel_values"].bfloat16()}).backward()
    assert {w.grad.dtype for w in tuned.parameters() if w.grad is not None} == {torch.float32}
    assert lora_targets(toy(), LoraOptions()) in lora_targets(toy(), LoraOptions(projector=True))
