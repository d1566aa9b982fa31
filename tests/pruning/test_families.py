"""Every family x every mechanism: compact = reference, and a plan that prunes nothing = the stock model."""

import re

import pytest
import torch
from families import FAMILIES
from toy import random_plan, toy_dims

from yopo_train.bench.memory import cache_bytes
from yopo_train.cost import kv_cache_bytes
from yopo_train.models import family_of
from yopo_train.models.prompt import prompt_of, real_tokens, visual_mask
from yopo_train.plan import PruningPlan
from yopo_train.pruning import dense_mode, prune, unprune

DENSE = {"radius": None, "heads": 1.1, "channels": 1.1}
MECHANISMS = {
    "heads": {"heads": 0.5},
    "channels": {"channels": 0.5},
    "radius": {"radius": 1},
    "depth": {"depth": 2},
    "all": {"depth": 3, "radius": 1, "heads": 0.5, "channels": 0.5},
}
VIDEOS = [name for name, family in FAMILIES.items() if family.VIDEO]
VIDEO = [[3, ("video", 2, 2, 3), 2], [2, "image", 1, ("video", 3, 2, 2), ("image", 2, 3), 4]]
"""Unless a family has ``VIDEO_SAMPLES`` of its own."""

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


def plan_of(model, mechanism):
    dims = toy_dims(model)
    return random_plan(dims, **{"depth": dims.layers, **DENSE, **MECHANISMS[mechanism]}, seed=1)


def inputs_of(name, model, shape):
    """Batches by what they try out."""
    one, other = getattr(FAMILIES[name], "TWO_IMAGES", ("image", "image"))
    samples = {
        "forward": [[3, "image", 4]],
        "two images": [[3, one, 2, other, 4]],
        "padded left": [[3, "image", 4], [2, one, 1, other, 2], [6]],
        "padded right": [[3, "image", 4], [2, one, 1, other, 2], [6]],
    }[shape]
    return FAMILIES[name].toy_inputs(model, samples, "right" if shape.endswith("right") else "left", seed=3)


def text_logits(model, batch, **kwargs):
    text = real_tokens(batch) & ~visual_mask(model, batch)
    with torch.no_grad():
        return model(**batch, **kwargs).logits[text]


def assert_close(found, expected, rtol=0.0):
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=rtol)


def videos_of(name, model):
    return FAMILIES[name].toy_inputs(model, getattr(FAMILIES[name], "VIDEO_SAMPLES", VIDEO), seed=3)


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


# -- generation -------------------------------------------------------------------------------------------------------
def generate(model, batch, **kwargs):
    placeholders = list(family_of(model).placeholders(model.config).values())
    return model.generate(**batch, max_new_tokens=6, do_sample=False, suppress_tokens=placeholders, **kwargs)


@each_mechanism
@pytest.mark.parametrize("shape", ["two images", "padded left"])
def test_cached_generation_gives_the_tokens_of_the_reference(name, model, mechanism, shape):
    plan, batch = plan_of(model, mechanism), inputs_of(name, model, shape)
    compact = generate(prune(model, plan), batch)
    assert torch.equal(compact, generate(prune(model, plan, "reference"), batch, use_cache=False))


def test_beams_repeat_images_with_their_sizes(name, model):
    plan, batch = plan_of(model, "all"), inputs_of(name, model, "padded left")
    compact = generate(prune(model, plan), batch, num_beams=3)
    assert torch.equal(compact, generate(prune(model, plan, "reference"), batch, use_cache=False, num_beams=3))


@pytest.mark.parametrize("name", VIDEOS, scope="module")
def test_generation_from_videos(name, model):
    plan, batch = plan_of(model, "all"), videos_of(name, model)
    compact = generate(prune(model, plan), batch)
    assert torch.equal(compact, generate(prune(model, plan, "reference"), batch, use_cache=False))


def test_empty_plan_generates_what_the_stock_model_does(name, model):
    batch = inputs_of(name, model, "padded left")
    stock = generate(model, batch)
    assert torch.equal(generate(prune(model, PruningPlan.dense(toy_dims(model))), batch), stock)
    prune(model, plan_of(model, "all"))
    with dense_mode(model):
        assert torch.equal(generate(model, batch), stock)


# -- the KV cache -----------------------------------------------------------------------------------------------------
def cache_of(model, plan, batch):
    with torch.no_grad():
        return prune(model, plan)(**batch, use_cache=True).past_key_values


@each_mechanism
def test_cache_has_the_size_of_the_formula(name, model, mechanism):
    plan, batch = plan_of(model, mechanism), inputs_of(name, model, "two images")
    expected = kv_cache_bytes(plan, prompt_of(model, batch), bytes_per_value=4)
    assert cache_bytes(cache_of(model, plan, batch)) == expected


def test_a_kv_head_keeps_visual_tokens_while_one_of_its_query_heads_is_active(name, model):
    dims, batch = toy_dims(model), inputs_of(name, model, "forward")
    group, prompt = dims.heads // dims.kv_heads, prompt_of(model, batch)

    def bytes_of(*active):
        heads = torch.zeros(dims.layers, dims.heads, dtype=torch.bool)
        heads[0, list(active)] = True
        plan = PruningPlan(dims, heads, torch.zeros(dims.layers, dims.intermediate, dtype=torch.bool), None, 1)
        size = cache_bytes(cache_of(model, plan, batch))
        assert size == kv_cache_bytes(plan, prompt, bytes_per_value=4)
        return size

    assert group > 1, "a toy without grouped heads shows nothing"
    none, one, whole_group, two_groups = bytes_of(), bytes_of(0), bytes_of(*range(group)), bytes_of(0, group)
    assert none < one == whole_group < two_groups
    assert one - none == 2 * prompt.visual_tokens * dims.head_dim * 4
