"""Bad input to the engine: one clear line, and the model stays as it was."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from toy import random_plan, text_logits, toy_batch, toy_dims, toy_llava

from yopo_train.errors import UserError
from yopo_train.plan import PruningPlan
from yopo_train.pruning import active_plan, dense_mode, prune

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


def test_missing_weights():
    model = toy_llava()
    model.model.language_model.layers[1].to("meta")
    with pytest.raises(UserError, match=r"layer 1.self_attn.q_proj has no weights .* expected loaded or offloaded"):
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


def test_adapter_that_looks_at_whole_sequences():
    targets = ["language_model.layers.0.self_attn.q_proj"]
    options = {"alora_invocation_tokens": [5, 6], "task_type": "CAUSAL_LM"}
    model = get_peft_model(toy_llava(), LoraConfig(target_modules=targets, **options))
    with pytest.raises(UserError, match="q_proj cannot be pruned: activated LoRA"):
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


def pruned_toy():
    return prune(toy_llava(), random_plan(toy_dims(toy_llava()), 3, 1))


@pytest.mark.parametrize("samples", [[["image"]], [[3, "image"]], [["image", 4], [3, "image"]]])
@pytest.mark.parametrize("backend", ["compact", "reference"])
def test_prompt_that_ends_in_an_image_has_no_answer(samples, backend):
    model = prune(toy_llava(), random_plan(toy_dims(toy_llava()), 3, 1), backend)
    batch, last = toy_batch(samples), len(samples) - 1
    with pytest.raises(UserError, match=f"sample {last} of the batch ends in a visual token"):
        model.generate(**batch, max_new_tokens=2, use_cache=backend == "compact")
    with pytest.raises(UserError, match="expected text behind the last image"):
        model(**batch, logits_to_keep=1, use_cache=False)
    with dense_mode(model):
        model(**batch, logits_to_keep=1, use_cache=False)


@pytest.mark.parametrize(
    ("token", "message"),
    [(3, "token 3 of sample 0 has a label and is a visual token"), (19, "stands right behind a visual token")],
)
def test_labels_that_only_a_visual_token_could_predict(token, message):
    labels = torch.full_like(BATCH["input_ids"], -100)
    labels[0, 20:] = BATCH["input_ids"][0, 20:]
    model = get_peft_model(pruned_toy(), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert model(**BATCH, labels=labels).loss > 0
    labels[0, token] = 5
    with pytest.raises(UserError, match=message):
        model(**BATCH, labels=labels)


@pytest.mark.parametrize("images", [1, 3])
def test_other_number_of_images_than_of_placeholders(images):
    """transformers' own error, which the engine must not hide."""
    batch = toy_batch([[3, "image", 1, "image", 2]])
    pixels = batch["pixel_values"][:1].expand(images, -1, -1, -1)
    with pytest.raises(ValueError, match="Image features and image tokens do not match"):
        pruned_toy()(**{**batch, "pixel_values": pixels})


def test_image_without_a_placeholder():
    with pytest.raises(ValueError, match="Image features and image tokens do not match"):
        pruned_toy()(input_ids=torch.tensor([[5, 6, 7]]), pixel_values=BATCH["pixel_values"])


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
