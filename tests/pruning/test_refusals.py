"""Bad input to the engine: one clear line, and the model stays as it was."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from toy import random_plan, text_logits, toy_batch, toy_dims, toy_llava

from yopo_train.errors import UserError
from yopo_train.plan import PruningPlan
from yopo_train.pruning import active_plan, prune

BATCH = toy_batch([[3, "image", 4]])


def test_plan_of_another_model():
    model = toy_llava()
    before = text_logits(model, BATCH)
    with pytest.raises(UserError, match=r"layers = 4.*layers = 6"):
        prune(model, PruningPlan.dense(toy_dims(toy_llava(layers=6))))
    assert active_plan(model) is None
    assert torch.equal(text_logits(model, BATCH), before)


def test_adapter_that_comes_after_the_plan_and_cannot_be_sliced():
    model = prune(toy_llava(), random_plan(toy_dims(toy_llava()), 3, 1))
    targets = ["language_model.layers.0.self_attn.q_proj"]
    with pytest.raises(UserError, match="LoRA variants"):
        get_peft_model(model, LoraConfig(use_dora=True, target_modules=targets))(**BATCH)


def test_offloaded_weights():
    model = toy_llava()
    model.model.language_model.layers[1].to("meta")
    with pytest.raises(UserError, match="offloaded"):
        prune(model, random_plan(toy_dims(toy_llava()), 3, 1))


def test_checkpointing_on_a_filled_cache():
    model = prune(toy_llava(), random_plan(toy_dims(toy_llava()), 3, 1))
    cache = model(**BATCH, use_cache=True).past_key_values
    model.gradient_checkpointing_enable()
    with pytest.raises(UserError, match="filled KV cache"):
        model.train()(input_ids=torch.tensor([[7]]), past_key_values=cache)


def test_unknown_backend():
    with pytest.raises(UserError, match="backend is 'fast'"):
        prune(toy_llava(), PruningPlan.dense(toy_dims(toy_llava())), backend="fast")


def test_official_semantics_need_the_reference_backend():
    plan = PruningPlan.dense(toy_dims(toy_llava()))
    plan.semantics = "official"
    with pytest.raises(UserError, match="only the reference backend"):
        prune(toy_llava(), plan)


def test_layer_kind_that_cannot_be_sliced():
    targets = ["language_model.layers.0.self_attn.q_proj"]
    model = get_peft_model(toy_llava(), LoraConfig(use_dora=True, target_modules=targets))
    with pytest.raises(UserError, match="q_proj cannot be pruned: LoRA variants"):
        prune(model, random_plan(toy_dims(toy_llava()), 3, 1))


def test_text_model_with_sliding_windows():
    model = toy_llava()
    model.config.text_config.layer_types = ["sliding_attention"] * 4
    with pytest.raises(UserError, match="sliding-window"):
        prune(model, random_plan(toy_dims(toy_llava()), 3, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output_attentions": True}, "output_attentions"),
        ({"attention_mask": torch.ones(1, 1, 23, 23)}, "attention_mask has 4 dimensions"),
        ({"attention_mask": torch.ones(1, 22)}, "attention_mask has 22 columns for 23 tokens"),
    ],
)
def test_inputs_that_the_engine_cannot_honour(change, message):
    model = prune(toy_llava(), random_plan(toy_dims(toy_llava()), 3, 1))
    with pytest.raises(UserError, match=message):
        model(**{**BATCH, **change})


def test_visual_tokens_that_fill_no_grid():
    model = prune(toy_llava(), random_plan(toy_dims(toy_llava()), 3, 1))
    batch = dict(BATCH, input_ids=BATCH["input_ids"].clone())
    batch["input_ids"][0, 3] = 5
    with pytest.raises(UserError, match="sample 0 of the batch holds 15 visual tokens, expected a multiple of 16"):
        model(**batch)


def test_embeddings_hide_which_tokens_are_visual():
    model = prune(toy_llava(), random_plan(toy_dims(toy_llava()), 3, 1))
    embeds = model.get_input_embeddings()(BATCH["input_ids"])
    with pytest.raises(UserError, match="needs input_ids"):
        model(inputs_embeds=embeds, pixel_values=BATCH["pixel_values"])


def test_prompt_that_is_only_an_image():
    """No text, no answer position, but nothing breaks: a chat may add text on the same cache."""
    plan = random_plan(toy_dims(toy_llava()), 3, 1)
    model = prune(toy_llava(), plan)
    whole = toy_batch([["image", 4]])
    image = {"input_ids": whole["input_ids"][:, :16], "pixel_values": whole["pixel_values"]}
    with torch.no_grad():
        cache = model(**image, use_cache=True).past_key_values
        continued = model(input_ids=whole["input_ids"][:, 16:], past_key_values=cache).logits
        at_once = model(**whole).logits[:, 16:]
    torch.testing.assert_close(continued, at_once, atol=1e-4, rtol=0)
