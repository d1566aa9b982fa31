"""The engine: compact = reference, a plan that prunes nothing = the stock model, text only = the stock model."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import IMAGE_TOKEN, SIDE, VISUAL, random_plan, text_logits, toy_batch, toy_dims, toy_llava

from yopo_train.plan import PruningPlan
from yopo_train.pruning import prune, unprune

MODELS = {kv_heads: toy_llava(kv_heads) for kv_heads in (4, 2, 1)}
SAMPLE = st.lists(st.one_of(st.just("image"), st.integers(1, 6)), min_size=0, max_size=5).filter(
    lambda parts: parts.count("image") <= 3
)


@st.composite
def plans(draw, dims):
    return random_plan(
        dims,
        depth=draw(st.integers(0, dims.layers)),
        radius=draw(st.one_of(st.none(), st.integers(0, 4))),
        seed=draw(st.integers(0, 1000)),
        heads=draw(st.sampled_from([0.0, 0.3, 0.6, 1.0])),
        channels=draw(st.sampled_from([0.0, 0.3, 0.6, 1.0])),
    )


@st.composite
def batches(draw):
    # a sample ends with text: that is what a prompt is asked by
    samples = [[*draw(SAMPLE), draw(st.integers(1, 5))] for _ in range(draw(st.integers(1, 3)))]
    return toy_batch(samples, draw(st.sampled_from(["left", "right"])), draw(st.integers(0, 1000)))


def assert_compact_equals_reference(model, plan, batch):
    try:
        compact = text_logits(prune(model, plan), batch)
        reference = text_logits(prune(model, plan, backend="reference"), batch, use_cache=False)
    finally:
        unprune(model)
    torch.testing.assert_close(compact, reference, atol=1e-4, rtol=0)


@settings(max_examples=120, deadline=None)
@given(st.data(), st.sampled_from(sorted(MODELS)), batches())
def test_compact_equals_reference(data, kv_heads, batch):
    model = MODELS[kv_heads]
    assert_compact_equals_reference(model, data.draw(plans(toy_dims(model))), batch)


@pytest.mark.parametrize("radius", [None, 1])
@pytest.mark.parametrize("place", [1, 6, 15])
def test_placeholder_run_that_text_interrupts(radius, place):
    """Tokens take the places of the grid in their order, wherever in the prompt they stand."""
    model, batch = MODELS[2], toy_batch([[3, "image", 4], [2, "image", 1, "image", 2]])
    ids = batch["input_ids"]
    start = int((ids[0] == IMAGE_TOKEN).nonzero()[0])
    ids[0, start + place], ids[0, start + VISUAL] = ids[0, start + VISUAL].item(), IMAGE_TOKEN
    assert_compact_equals_reference(model, random_plan(toy_dims(model), 3, radius, seed=1), batch)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(MODELS)), batches(), st.sampled_from(["compact", "reference"]))
def test_plan_that_prunes_nothing_equals_stock(kv_heads, batch, backend):
    model = MODELS[kv_heads]
    stock = text_logits(model, batch)
    try:
        pruned = text_logits(prune(model, PruningPlan.dense(toy_dims(model)), backend), batch, use_cache=False)
    finally:
        unprune(model)
    torch.testing.assert_close(pruned, stock, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kv_heads", sorted(MODELS))
@pytest.mark.parametrize("backend", ["compact", "reference"])
def test_window_as_large_as_the_image_equals_stock(kv_heads, backend):
    """Every head, channel and layer kept, but through the engine's own paths; only a plan without radius is a no-op."""
    model = MODELS[kv_heads]
    dims, batch = toy_dims(model), toy_batch([[3, "image", 4], ["image", 2]])
    stock = text_logits(model, batch)
    plan = random_plan(dims, dims.layers, SIDE - 1, heads=1.1, channels=1.1)
    assert plan.heads.all() and plan.channels.all() and not plan.is_dense
    try:
        pruned = text_logits(prune(model, plan, backend), batch, use_cache=False)
    finally:
        unprune(model)
    torch.testing.assert_close(pruned, stock, atol=1e-4, rtol=0)


def test_plan_that_prunes_nothing_answers_a_prompt_that_ends_in_an_image():
    model = toy_llava()
    batch = toy_batch([[3, "image"]])
    with torch.no_grad():
        stock = model(**batch).logits
        pruned = prune(model, PruningPlan.dense(toy_dims(model)))(**batch).logits
    torch.testing.assert_close(pruned, stock, atol=1e-4, rtol=0)


@settings(max_examples=30, deadline=None)
@given(st.data(), st.sampled_from(sorted(MODELS)), st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_text_only_equals_stock_under_any_plan(data, kv_heads, lengths):
    model = MODELS[kv_heads]
    batch = toy_batch([[length] for length in lengths])
    stock = text_logits(model, batch)
    try:
        pruned = text_logits(prune(model, data.draw(plans(toy_dims(model)))), batch)
    finally:
        unprune(model)
    torch.testing.assert_close(pruned, stock, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kv_heads", sorted(MODELS))
def test_every_mechanism_changes_the_output_alone(kv_heads):
    """Otherwise the equalities above would prove nothing."""
    model = MODELS[kv_heads]
    dims, batch = toy_dims(model), toy_batch([[3, "image", 4]])
    stock = text_logits(model, batch)
    dense = {"depth": dims.layers, "radius": None, "heads": 1.0, "channels": 1.0}
    for change in ({"depth": 2}, {"radius": 1}, {"heads": 0.5}, {"channels": 0.5}):
        try:
            pruned = text_logits(prune(model, random_plan(dims, **{**dense, **change})), batch)
        finally:
            unprune(model)
        assert (pruned - stock).abs().max() > 1e-2, change


def test_shapes_are_those_of_the_base_model():
    model = toy_llava()
    batch = toy_batch([[3, "image", 4], [2, "image", 1, "image", 2]])
    stock = model(**batch, output_hidden_states=True)
    try:
        pruned = prune(model, random_plan(toy_dims(model), 3, 1))(**batch, output_hidden_states=True)
    finally:
        unprune(model)
    assert pruned.logits.shape == stock.logits.shape
    assert [h.shape for h in pruned.hidden_states] == [h.shape for h in stock.hidden_states]
    visual = batch["input_ids"] == 98
    assert (pruned.hidden_states[-1][visual] == 0).all()
    assert (pruned.hidden_states[1][visual] != 0).any()


def test_official_semantics_keep_the_softmax_share_of_masked_keys():
    model = toy_llava()
    dims, batch = toy_dims(model), toy_batch([[3, "image", 4]])
    ours = random_plan(dims, 3, 1)
    official = PruningPlan(dims, ours.heads, ours.channels, ours.radius, ours.depth, semantics="official")
    renormalised = text_logits(prune(model, ours, "reference"), batch, use_cache=False)
    kept = text_logits(prune(model, official, "reference"), batch, use_cache=False)
    unprune(model)
    assert (renormalised - kept).abs().max() > 1e-3
    # where nothing is masked the two agree
    dense = PruningPlan.dense(dims)
    dense.semantics = "official"
    same = text_logits(prune(model, dense, "reference"), batch, use_cache=False)
    torch.testing.assert_close(same, text_logits(unprune(model), batch), atol=1e-4, rtol=0)
