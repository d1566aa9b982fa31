"""The teacher is the base model, and following it has the gradients that the formula says."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import random_plan, toy_dims, toy_llava
from toy_training import labelled_batch

from yopo_train.calibration import PlanConfig
from yopo_train.errors import UserError
from yopo_train.models import model_inputs
from yopo_train.pruning import prune
from yopo_train.recovery import DistillationOptions, LoraOptions, YopoModule, attach_lora
from yopo_train.recovery.distillation import _Known, make_loss, teacher
from yopo_train.recovery.loss import IGNORE, answer_logits

BATCH = labelled_batch(labels=(3, 1))


def student(backend: str = "compact"):
    """A pruned model with an adapter that does something."""
    model = toy_llava()
    model = attach_lora(prune(model, random_plan(toy_dims(model), 3, 1), backend), LoraOptions(r=2))
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.1, generator=generator)
    return model.train()


@pytest.mark.parametrize("backend", ["compact", "reference"])
def test_the_teacher_is_the_base_model(backend):
    model = student(backend)
    before = {name for name, weight in model.named_parameters() if weight.requires_grad}
    with teacher(model):
        logits, targets = answer_logits(model, BATCH)
    assert not logits.requires_grad
    expected, _ = answer_logits(toy_llava(), BATCH)
    read = targets != IGNORE
    torch.testing.assert_close(logits[read], expected[read].detach(), atol=1e-4, rtol=1e-4)
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == before
    after, _ = answer_logits(model, BATCH)
    assert after.requires_grad and not torch.allclose(after[read], logits[read], atol=1e-2)


def test_the_teacher_drops_nothing():
    model = student()
    model.config.vision_config.attention_dropout = 0.5
    for name, module in model.named_modules():
        if "vision_tower" in name and hasattr(module, "dropout"):
            module.dropout = 0.5
    with teacher(model):
        first, second = (answer_logits(model, BATCH)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("name", "temperature", "weight"), [("kd", 2.0, 1.0), ("ce+kd", 1.0, 0.3)])
def test_gradients_are_those_of_the_formula(name, temperature, weight, checkpointing):
    model = student()
    if checkpointing:
        model.get_base_model().gradient_checkpointing_enable()
    options = DistillationOptions(weight=0.3, temperature=temperature)
    sums = make_loss(name, options)(model, BATCH)
    sums.total.backward()
    found = {name: w.grad.clone() for name, w in model.named_parameters() if w.grad is not None}
    model.zero_grad()

    inputs, targets = model_inputs(BATCH), F.pad(BATCH["labels"][:, 1:], (0, 1), value=IGNORE)
    chosen = targets != IGNORE
    with torch.no_grad():
        p = (toy_llava()(**inputs).logits[chosen] / temperature).softmax(-1)
    logits = model(**inputs).logits[chosen]
    q = (logits / temperature).softmax(-1)
    kd = temperature**2 * (p * (p / q).log()).sum()
    ce = -logits.log_softmax(-1)[torch.arange(4), targets[chosen]].sum()
    expected = weight * kd + (1 - weight) * ce
    torch.testing.assert_close(sums.total, expected, atol=1e-4, rtol=1e-4)
    assert sums.tokens == 4
    expected.backward()
    assert found.keys() == {name for name, w in model.named_parameters() if w.requires_grad}
    for name, weight in model.named_parameters():
        if name in found:
            torch.testing.assert_close(found[name], weight.grad, atol=1e-4, rtol=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.floats(0.5, 3.0), st.integers(0, 10_000))
def test_the_likeliest_tokens_and_all_others_together(top_k, temperature, seed):
    generator = torch.Generator().manual_seed(seed)
    base, logits = (5 * torch.randn(4, 9, generator=generator) for _ in range(2))
    logits.requires_grad_(True)

    def divergence(k):
        return _Known.of(base, DistillationOptions(temperature=temperature, top_k=k)).divergence(logits)

    full, some = divergence(None), divergence(top_k)
    assert -1e-4 <= some <= full + 1e-4
    if top_k >= 8:  # one other token at most
        torch.testing.assert_close(some, full, atol=1e-4, rtol=1e-4)
    (gradient,) = torch.autograd.grad(some, logits)
    assert gradient.isfinite().all()
    p, q = ((x.detach().double() / temperature).softmax(-1) for x in (base, logits))
    index = p.topk(min(top_k, 9), -1).indices
    rest = [(1 - x.gather(-1, index).sum(-1, keepdim=True)).clamp(min=1e-12) for x in (p, q)]  # not below 0 by rounding
    coarse = [torch.cat((x.gather(-1, index), other), -1) for x, other in zip((p, q), rest, strict=True)]
    if top_k < 8:
        expected = temperature**2 * torch.xlogy(coarse[0], coarse[0] / coarse[1]).sum()
        torch.testing.assert_close(some.detach(), expected.float(), atol=1e-2, rtol=1e-2)


def test_a_model_that_nothing_was_done_to_has_nothing_to_learn_from_itself():
    model = attach_lora(toy_llava(), LoraOptions(r=2)).train()
    assert make_loss("kd", DistillationOptions())(model, BATCH).total.abs() < 1e-4


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"loss": "kd", "tuning": "full"}, "loss is kd, expected ce with model.tuning full"),
        ({"loss": "ce+kd", "tuning": "full"}, r"loss is ce\+kd, expected ce with model.tuning full"),
        ({"loss": "kd", "pruning": None}, "nothing is pruned"),
        ({"loss": "kd", "lora": LoraOptions(bias="all")}, "expected ce with model.lora.bias all"),
        ({"loss": "kd", "lora": LoraOptions(init_lora_weights="pissa")}, "init_lora_weights pissa"),
        ({"freeze": ["vision"]}, r"model\.freeze is \['vision'\], expected null"),
        ({"quantization": "nf4", "tuning": "full"}, "quantization is nf4, expected null with model.tuning full"),
        ({"quantization": "nf4", "lora": LoraOptions(use_dora=True)}, "use_dora needs whole weights"),
    ],
)
def test_what_does_not_go_together(options, culprit):
    with pytest.raises(UserError, match=culprit):
        YopoModule("org/base", **{"pruning": PlanConfig(preset="paper-25"), **options})


@pytest.mark.parametrize("options", [{"weight": 0.0}, {"weight": 1.0}, {"temperature": 0.0}, {"top_k": 0}])
def test_options_are_checked(options):
    with pytest.raises(UserError, match=rf"model\.distillation\.{next(iter(options))} is"):
        DistillationOptions(**options)
