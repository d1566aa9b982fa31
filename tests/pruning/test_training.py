"""Training through the compact engine: gradients, checkpointing, adapters in the base model's order."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from toy import random_plan, text_logits, toy_batch, toy_dims, toy_llava

from yopo_train.models import family_of
from yopo_train.pruning import active_plan, prune, unprune

BATCH = toy_batch([[3, "image", 4], [2, "image", 1, "image", 2], [6]], padding="right", seed=3)


def with_lora(model, seed=0, **options):
    """LoRA on the language model with non-zero B, so that every factor gets a gradient."""
    torch.manual_seed(seed)
    options = {"r": 3, "lora_alpha": 6, "target_modules": family_of(model).lora_targets(), **options}
    peft_model = get_peft_model(model, LoraConfig(**options))
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return peft_model


def loss_and_gradients(model, **kwargs):
    visual = BATCH["input_ids"] == 98
    visual[:, 1:] |= visual[:, :-1].clone()  # nor can the token behind an image be predicted: from nothing
    labels = BATCH["input_ids"].masked_fill((BATCH["attention_mask"] == 0) | visual, -100)
    model.zero_grad()
    loss = model(**BATCH, labels=labels, **kwargs).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def base_order(model, gradients):
    """Gradients as if they were weights, translated by the state-dict hooks."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if name in gradients:
                parameter.copy_(gradients[name])
    state = twin.state_dict()
    return {name: state[name] for name in gradients}


@pytest.mark.parametrize(
    ("kv_heads", "radius", "lora_first"), [(4, None, True), (4, 1, False), (2, 1, True), (2, None, False)]
)
def test_lora_gradients_equal_those_of_the_reference(kv_heads, radius, lora_first):
    base = toy_llava(kv_heads)
    plan = random_plan(toy_dims(base), 3, radius, seed=1)
    reference = prune(with_lora(copy.deepcopy(base)), plan, "reference")
    expected_loss, expected = loss_and_gradients(reference, use_cache=False)

    if lora_first:
        compact = prune(with_lora(base), plan)
    else:
        compact = with_lora(prune(base, plan))
        compact.load_state_dict(reference.state_dict())
    loss, gradients = loss_and_gradients(compact)
    gradients = base_order(compact, gradients)
    assert abs(loss - expected_loss) < 1e-4
    assert gradients.keys() == expected.keys() and len(gradients) == 2 * 7 * 4
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-4, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
        assert gradient.abs().max() > 0, name


@pytest.mark.parametrize("radius", [None, 1])
def test_gradient_checkpointing_changes_nothing(radius):
    model = prune(with_lora(toy_llava()), random_plan(toy_dims(toy_llava()), 3, radius)).train()
    loss, gradients = loss_and_gradients(model)
    calls = []
    model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    layer = model.get_base_model().model.language_model.layers[0]
    original = layer._gradient_checkpointing_func
    for each in model.get_base_model().model.language_model.layers:
        each._gradient_checkpointing_func = lambda *args, **kw: calls.append(1) or original(*args, **kw)
    again, checkpointed = loss_and_gradients(model)
    assert len(calls) == 4, "every decoder layer is checkpointed"
    assert again == loss
    for name, gradient in gradients.items():
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_full_gradients_equal_those_of_the_reference(kv_heads):
    base = toy_llava(kv_heads)
    plan = random_plan(toy_dims(base), 3, 1, seed=1)
    reference = prune(copy.deepcopy(base), plan, "reference")
    _, expected = loss_and_gradients(reference, use_cache=False)
    compact = prune(base, plan)
    _, gradients = loss_and_gradients(compact)
    gradients = base_order(compact, gradients)
    assert gradients.keys() == expected.keys() and "model.language_model.layers.0.mlp.up_proj.weight" in gradients
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_unprune_restores_bit_equal_weights_and_outputs():
    model = with_lora(toy_llava(2))
    before, logits = {k: v.clone() for k, v in model.state_dict().items()}, text_logits(model, BATCH)
    prune(model, random_plan(toy_dims(toy_llava(2)), 3, 1))
    assert active_plan(model) is not None
    assert not torch.equal(text_logits(model, BATCH), logits)
    unprune(model)
    assert active_plan(model) is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(text_logits(model, BATCH), logits)


def test_state_dict_of_a_pruned_model_is_in_base_order():
    model = with_lora(toy_llava(2))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    prune(model, random_plan(toy_dims(toy_llava(2)), 3, 1))
    weight = "base_model.model.model.language_model.layers.0.self_attn.q_proj.base_layer.weight"
    assert not torch.equal(dict(model.named_parameters())[weight], before[weight]), "the weights were reordered"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    changed = {name: tensor + 1 for name, tensor in before.items()}
    model.load_state_dict(changed)
    unprune(model)
    assert all(torch.equal(tensor, changed[name]) for name, tensor in model.state_dict().items())


def test_gradients_follow_the_weights():
    """Between backward and step, a plan may come or go."""
    model = toy_llava()
    loss_and_gradients(model)
    weight = model.model.language_model.layers[0].self_attn.q_proj.weight
    before, gradient = weight.detach().clone(), weight.grad.clone()
    prune(model, random_plan(toy_dims(model), 3, 1))
    assert not torch.equal(weight.grad, gradient)
    assert torch.equal((weight.grad[:, None] == gradient).all(-1), (weight[:, None] == before).all(-1))
    unprune(model)
    assert torch.equal(weight.grad, gradient)


def test_unprune_puts_a_foreign_forward_back():
    model = toy_llava()
    layer = model.model.language_model.layers[0]
    original = layer.forward
    layer.forward = wrapper = lambda *args, **kwargs: original(*args, **kwargs)
    unprune(prune(model, random_plan(toy_dims(model), 3, 1)))
    assert layer.forward is wrapper


def test_prune_adds_no_parameter_and_no_copy():
    model = toy_llava()
    count = sum(t.nbytes for t in [*model.parameters(), *model.buffers()])
    names, pointers = [n for n, _ in model.named_parameters()], [p.data_ptr() for p in model.parameters()]
    prune(model, random_plan(toy_dims(model), 3, 1))
    assert sum(t.nbytes for t in [*model.parameters(), *model.buffers()]) == count
    assert [n for n, _ in model.named_parameters()] == names
    assert [p.data_ptr() for p in model.parameters()] == pointers


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"lora_dropout": 0.5}])
def test_saved_adapter_is_a_standard_one_in_base_order(tmp_path, recwarn, options):
    """An adapter trained on the pruned model, loaded by plain peft onto the dense base."""
    plan = random_plan(toy_dims(toy_llava()), 3, 1, seed=1)
    model = with_lora(prune(toy_llava(), plan), **options)  # the factors are born in the pruned order
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    loss_and_gradients(model)
    optimizer.step()
    model.save_pretrained(tmp_path)
    pruned = text_logits(model.eval(), BATCH)
    dense = text_logits(unprune(model), BATCH)

    recwarn.clear()
    loaded = PeftModel.from_pretrained(toy_llava(), tmp_path)
    assert not [w for w in recwarn if "key" in str(w.message)]
    torch.testing.assert_close(text_logits(loaded.eval(), BATCH), dense, atol=1e-5, rtol=0)
    torch.testing.assert_close(text_logits(prune(loaded, plan), BATCH), pruned, atol=1e-5, rtol=0)
    assert any("language_model.layers.0" in name for name in load_file(tmp_path / "adapter_model.safetensors"))


def test_several_adapters_merged_and_switched_off():
    plan = random_plan(toy_dims(toy_llava()), 3, 1, seed=1)
    model = with_lora(toy_llava())
    model.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    prune(model, plan)
    truth = copy.deepcopy(model)
    prune(truth, plan, "reference")
    for name in ("default", "second"):
        model.set_adapter(name)
        truth.set_adapter(name)
        expected = text_logits(truth, BATCH, use_cache=False)
        torch.testing.assert_close(text_logits(model, BATCH), expected, atol=1e-4, rtol=0)
    with model.disable_adapter(), truth.disable_adapter():
        expected = text_logits(truth, BATCH, use_cache=False)
        torch.testing.assert_close(text_logits(model, BATCH), expected, atol=1e-4, rtol=0)
    expected = text_logits(model, BATCH)
    model.merge_adapter()
    torch.testing.assert_close(text_logits(model, BATCH), expected, atol=1e-4, rtol=0)
    merged = model.merge_and_unload()
    torch.testing.assert_close(text_logits(merged, BATCH), expected, atol=1e-4, rtol=0)
