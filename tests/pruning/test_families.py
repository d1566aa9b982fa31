"""Every family x every mechanism: compact = reference, and a plan that prunes nothing = the stock model.

Generation and the KV cache: ``test_families_generate.py``.
"""

import re

import pytest
import torch
from families import FAMILIES
from families.matrix import MECHANISMS, VIDEOS, assert_close, inputs_of, plan_of, text_logits, videos_of
from toy import random_plan, toy_dims

from yopo_train.bench.memory import weight_bytes
from yopo_train.models import family_of
from yopo_train.models.prompt import real_tokens, visual_mask
from yopo_train.plan import PruningPlan
from yopo_train.pruning import prune, unprune
from yopo_train.recovery import LoraOptions
from yopo_train.recovery.adapter import attach_lora

each_mechanism = pytest.mark.parametrize("mechanism", MECHANISMS)


@pytest.fixture(scope="module", params=FAMILIES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return FAMILIES[name].toy()


@pytest.fixture(autouse=True)
def unpruned(request):
    """No test leaves its plan behind."""
    yield
    if "model" in request.fixturenames:
        unprune(request.getfixturevalue("model"))


# -- forward ----------------------------------------------------------------------------------------------------------
def assert_compact_equals_reference(model, plan, batch):
    stock = text_logits(unprune(model), batch)
    compact = text_logits(prune(model, plan), batch)
    assert_close(compact, text_logits(prune(model, plan, "reference"), batch, use_cache=False))
    assert (compact - stock).abs().max() > 1e-3, "the plan must change something, or nothing is shown"


@each_mechanism
@pytest.mark.parametrize("shape", ["forward", "two images", "padded left", "padded right"])
def test_compact_equals_reference(name, model, mechanism, shape):
    assert_compact_equals_reference(model, plan_of(model, mechanism), inputs_of(name, model, shape))


@each_mechanism
@pytest.mark.parametrize("name", VIDEOS, scope="module")
def test_videos(name, model, mechanism):
    assert_compact_equals_reference(model, plan_of(model, mechanism), videos_of(name, model))


@pytest.mark.parametrize("backend", ["compact", "reference"])
@pytest.mark.parametrize("shape", ["forward", "two images", "padded left", "padded right"])
def test_empty_plan_equals_stock(name, model, shape, backend):
    batch = inputs_of(name, model, shape)
    stock = text_logits(model, batch)
    assert_close(text_logits(prune(model, PruningPlan.dense(toy_dims(model)), backend), batch, use_cache=False), stock)


@pytest.mark.parametrize("backend", ["compact", "reference"])
@pytest.mark.parametrize("name", VIDEOS, scope="module")
def test_empty_plan_equals_stock_on_videos(name, model, backend):
    batch = videos_of(name, model)
    stock = text_logits(model, batch)
    assert_close(text_logits(prune(model, PruningPlan.dense(toy_dims(model)), backend), batch, use_cache=False), stock)


@pytest.mark.parametrize("backend", ["compact", "reference"])
def test_window_as_large_as_the_image_equals_stock(name, model, backend):
    """Through the engine's own paths: only a plan without radius switches them off. One image: a window ends there."""
    batch = inputs_of(name, model, "forward")
    dims, stock = toy_dims(model), text_logits(model, batch)
    plan = random_plan(dims, dims.layers, radius=9, heads=1.1, channels=1.1)
    if len(family_of(model).grids(model.config, visual_mask(model, batch), batch)[0]) > 1:
        plan.radius = None  # an image of several grids
        plan.channels[-1] = False  # of the last layer, where nothing is read
    assert not plan.is_dense
    assert_close(text_logits(prune(model, plan, backend), batch, use_cache=False), stock)


@each_mechanism
def test_text_only_equals_stock(name, model, mechanism):
    batch = FAMILIES[name].toy_inputs(model, [[7], [4]])
    stock = text_logits(model, batch)
    assert_close(text_logits(prune(model, plan_of(model, mechanism)), batch), stock)


# -- training ---------------------------------------------------------------------------------------------------------
def loss_and_gradients(model, batch, **kwargs):
    """Of all weights, those of the vision tower too, in the base model's order."""
    visual = visual_mask(model, batch)
    visual[:, 1:] |= visual[:, :-1].clone()  # nor can the token behind an image be predicted: from nothing
    model.zero_grad()
    loss = model(**batch, labels=batch["input_ids"].masked_fill(~real_tokens(batch) | visual, -100), **kwargs).loss
    loss.backward()
    unprune(model)  # gradients follow the weights
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return loss.detach(), gradients


@each_mechanism
def test_train_step(name, model, mechanism):
    plan, batch = plan_of(model, mechanism), inputs_of(name, model, "padded right")
    expected_loss, expected = loss_and_gradients(prune(model, plan, "reference"), batch, use_cache=False)
    loss, gradients = loss_and_gradients(prune(model, plan), batch)
    assert_close(loss, expected_loss)
    assert gradients.keys() <= expected.keys()
    assert any("visual" in key or "vision" in key for key in gradients), "the tower is trained, too"
    for key, gradient in expected.items():  # what the compact backend never reads has none (DeepStack behind layer D-1)
        assert_close(gradients.get(key, torch.zeros_like(gradient)), gradient, rtol=1e-3)


@pytest.fixture(scope="module")
def tuned(name):
    """With an adapter on the language model, and nothing else to train."""
    tuned = attach_lora(FAMILIES[name].toy(), LoraOptions(r=3))
    for key, weight in tuned.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(weight, std=0.1)  # at zero, A would have no gradient
    return tuned


@each_mechanism
def test_lora_step(name, tuned, mechanism):
    plan, batch = plan_of(tuned, mechanism), inputs_of(name, tuned.get_base_model(), "padded right")
    expected_loss, expected = loss_and_gradients(prune(tuned, plan, "reference"), batch, use_cache=False)
    loss, gradients = loss_and_gradients(prune(tuned, plan), batch)
    assert_close(loss, expected_loss)
    assert gradients.keys() == expected.keys() and len(gradients) == 2 * 7 * plan.dims.layers
    for key, gradient in gradients.items():
        assert_close(gradient, expected[key], rtol=1e-3)
        assert gradient.abs().max() > 0, key


@pytest.mark.parametrize("mechanism", ["all"])
def test_gradient_checkpointing_changes_nothing(name, model, mechanism):
    plan, batch = plan_of(model, mechanism), inputs_of(name, model, "padded right")
    expected_loss, expected = loss_and_gradients(prune(model, plan), batch)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        loss, gradients = loss_and_gradients(prune(model.train(), plan), batch)
    finally:
        model.eval().gradient_checkpointing_disable()
    assert_close(loss, expected_loss)
    assert gradients.keys() == expected.keys()
    for key, gradient in gradients.items():
        assert_close(gradient, expected[key])


def test_lora_targets_are_the_language_model_and_nothing_else(name, model):
    linear = {key for key, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    found = {key for key in linear if re.fullmatch(family_of(model).lora_targets(), key)}
    text_model = family_of(model).text_model(model)
    expected = {id(module) for module in text_model.layers.modules() if isinstance(module, torch.nn.Linear)}
    assert {id(model.get_submodule(key)) for key in found} == expected
    assert len(expected) == 7 * toy_dims(model).layers


# -- weights ----------------------------------------------------------------------------------------------------------
def test_a_plan_copies_no_weight_and_leaves_none_changed(name, model):
    before, size = {key: weight.clone() for key, weight in model.state_dict().items()}, weight_bytes(model)
    prune(model, plan_of(model, "all"))
    assert weight_bytes(model) == size
    assert any(not torch.equal(weight, before[key]) for key, weight in model.named_parameters()), "reordered"
    unprune(model)
    assert all(torch.equal(weight, before[key]) for key, weight in model.state_dict().items())
