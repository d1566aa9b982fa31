"""Linear layers of every kind: sliced where they can be, whole where they cannot, equal to the reference anyway."""

import copy
import warnings

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from torch import nn
from toy import random_plan, text_logits, text_positions, toy_batch, toy_dims, toy_llava

from yopo_train.errors import UserError
from yopo_train.models import family_of
from yopo_train.pruning import dense_mode, prune, unprune

BATCH = toy_batch([[3, "image", 4], [2, "image", 1, "image", 2], [6]], seed=3)
TEXT = toy_batch([[7], [4]])
ATTENTION, FFN = ["q_proj", "k_proj", "v_proj", "o_proj"], ["gate_proj", "up_proj", "down_proj"]


class PackedLinear(nn.Module):
    """A quantized layer as the engine sees one: no `weight`, nothing to slice, a forward of its own."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        scale = linear.weight.detach().abs().amax(1) / 127
        self.register_buffer("packed", (linear.weight.detach() / scale[:, None]).round().to(torch.int8).flatten())
        self.register_buffer("scale", scale)

    def forward(self, x):
        return x @ (self.packed.view(len(self.scale), -1) * self.scale[:, None]).T


class OddTensor(torch.Tensor):
    """A weight type that some quantization puts into an ordinary `nn.Linear`."""


def quantized(model, names):
    for layer in model.model.language_model.layers:
        for block in (layer.self_attn, layer.mlp):
            for name in set(names) & {child for child, _ in block.named_children()}:
                setattr(block, name, PackedLinear(getattr(block, name)))
    return model


def random_lora(model, name="default", **options):
    torch.manual_seed(len(name))
    options = {"r": 3, "target_modules": family_of(model).lora_targets(), **options}
    model = get_peft_model(model, LoraConfig(**options), name)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def plan_of(model, radius=1):
    return random_plan(toy_dims(model), 3, radius, seed=1)


def assert_equals_reference(compact, reference):
    expected = text_logits(reference, BATCH, use_cache=False)
    torch.testing.assert_close(text_logits(compact, BATCH), expected, atol=1e-4, rtol=0)
    assert (expected - text_logits(copy_unpruned(reference), BATCH)).abs().max() > 1e-2


def copy_unpruned(model):
    return unprune(copy.deepcopy(model))


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("radius", [None, 1])
@pytest.mark.parametrize("names", [["q_proj"], ["v_proj", "down_proj"], ["o_proj"], ["gate_proj"], ATTENTION + FFN])
def test_layers_that_cannot_be_sliced(kv_heads, radius, names):
    model = quantized(toy_llava(kv_heads), names)
    plan = plan_of(model, radius)
    reference = prune(copy.deepcopy(model), plan, "reference")
    stock = copy.deepcopy(model)
    with pytest.warns(UserWarning, match="cannot be sliced .*PackedLinear.* slower than the plan promises") as caught:
        prune(model, plan)
    assert len(caught) == 1
    assert_equals_reference(model, reference)
    torch.testing.assert_close(text_logits(model, TEXT), text_logits(stock, TEXT), atol=1e-4, rtol=0)
    torch.testing.assert_close(text_logits(model, TEXT, use_cache=False), text_logits(stock, TEXT), atol=1e-4, rtol=0)
    with dense_mode(model):
        torch.testing.assert_close(text_logits(model, BATCH), text_logits(stock, BATCH), atol=1e-4, rtol=0)
    options = {"max_new_tokens": 5, "do_sample": False, "suppress_tokens": [98]}
    assert torch.equal(model.generate(**BATCH, **options), reference.generate(**BATCH, use_cache=False, **options))


def test_blocks_that_cannot_be_sliced_keep_their_order():
    model = quantized(toy_llava(2), ["q_proj"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prune(model, plan_of(model))
    layer = model.model.language_model.layers[0]
    prefix = "model.language_model.layers.0"
    assert torch.equal(layer.self_attn.o_proj.weight, before[f"{prefix}.self_attn.o_proj.weight"])
    assert not torch.equal(layer.mlp.up_proj.weight, before[f"{prefix}.mlp.up_proj.weight"])
    for state in (model.state_dict(), unprune(model).state_dict()):
        assert all(torch.equal(tensor, before[name]) for name, tensor in state.items())


def test_weight_of_an_unknown_type():
    model = toy_llava()
    expected = text_logits(prune(model, plan_of(model)), BATCH)
    unprune(model)
    linear = model.model.language_model.layers[0].mlp.up_proj
    linear.weight = nn.Parameter(linear.weight.detach().as_subclass(OddTensor), requires_grad=False)
    with pytest.warns(UserWarning, match="layers.0.mlp.up_proj: its weight is a OddTensor"):
        prune(model, plan_of(model))
    torch.testing.assert_close(text_logits(model, BATCH).as_subclass(torch.Tensor), expected, atol=1e-4, rtol=0)


def test_dora():
    model = random_lora(toy_llava(2), use_dora=True)
    plan = plan_of(model)
    before = copy.deepcopy(model)
    reference = prune(copy.deepcopy(model), plan, "reference")
    with pytest.warns(UserWarning, match="DoraLinearVariant"):
        prune(model, plan)
    assert_equals_reference(model, reference)
    gradients = []
    for each in (model, reference):
        each(**BATCH, use_cache=False).logits[text_positions(BATCH)].square().mean().backward()
        gradients.append({name: p.grad for name, p in each.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and any("magnitude" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-4, rtol=1e-3)
    state = before.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in unprune(model).state_dict().items())


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"lora_bias": True}], ids=["plain", "rslora", "bias"])
def test_lora_is_sliced(options, recwarn):
    model = toy_llava(2)
    for layer in model.model.language_model.layers:  # lora_bias asks for it
        for linear in [m for m in layer.modules() if isinstance(m, nn.Linear)]:
            linear.bias = nn.Parameter(0.1 * torch.randn(linear.out_features))
    model = random_lora(model, **options)
    reference = prune(copy.deepcopy(model), plan_of(model), "reference")
    recwarn.clear()
    assert_equals_reference(prune(model, plan_of(model)), reference)
    assert not [w for w in recwarn if "sliced" in str(w.message)]


def test_several_active_adapters_merged_and_unmerged():
    model = random_lora(toy_llava())
    model.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    model.base_model.set_adapter(["default", "second"])
    reference = prune(copy.deepcopy(model), plan_of(model), "reference")
    prune(model, plan_of(model))
    both = text_logits(model, BATCH)
    assert_equals_reference(model, reference)
    model.base_model.set_adapter("default")
    assert (text_logits(model, BATCH) - both).abs().max() > 1e-2
    model.base_model.set_adapter(["default", "second"])
    model.merge_adapter()
    torch.testing.assert_close(text_logits(model, BATCH), both, atol=1e-4, rtol=0)
    with model.disable_adapter(), reference.disable_adapter():  # peft unmerges a layer when it is called like this
        assert_equals_reference(model, reference)
    torch.testing.assert_close(text_logits(model, BATCH), both, atol=1e-4, rtol=0)


class Comb(nn.Module):
    """Dropout that drops the same values whoever calls it: those that are near zero."""

    def forward(self, x):
        return 2 * x * (x.abs() > 0.3)


def test_dropout_is_in_front_of_every_adapter():
    model = random_lora(toy_llava(), lora_dropout=0.5).train()
    for module in model.modules():
        if hasattr(module, "lora_dropout"):
            module.lora_dropout["default"] = Comb()
    reference = prune(copy.deepcopy(model), plan_of(model), "reference")
    assert_equals_reference(prune(model, plan_of(model)), reference)


def test_other_adapters_than_lora():
    targets = {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
    model = get_peft_model(toy_llava(), IA3Config(**targets, init_ia3_weights=False))
    reference = prune(copy.deepcopy(model), plan_of(model), "reference")
    with pytest.warns(UserWarning, match="cannot be sliced"):
        prune(model, plan_of(model))
    assert_equals_reference(model, reference)
    late = get_peft_model(prune(toy_llava(), plan_of(toy_llava())), IA3Config(**targets))
    with pytest.raises(UserError, match=r"cannot be sliced any more \(a peft.tuners.ia3.layer.Linear\)"):
        late(**BATCH)
