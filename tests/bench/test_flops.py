"""FLOPs by formula equal those counted on what runs, for the stock model and under any plan."""

import pytest
from families import FAMILIES
from families.matrix import MECHANISMS, inputs_of, plan_of
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import VISUAL, random_plan, toy_batch, toy_dims, toy_llava

from yopo_train.bench.call import LanguageModelCall
from yopo_train.bench.flops import counted_flops
from yopo_train.cost import prefill_flops
from yopo_train.models.prompt import prompt_of
from yopo_train.plan import PruningPlan
from yopo_train.pruning import prune, unprune

MODELS = {kv_heads: toy_llava(kv_heads) for kv_heads in (4, 2)}
VOCABULARY = 99


@st.composite
def prompts(draw) -> dict:
    """A batch of one to three prompts of the same shape, with one or two images."""
    after = st.integers(2, 6)
    sample = [draw(st.integers(0, 5)), "image", draw(after)] + (["image", draw(after)] if draw(st.booleans()) else [])
    return toy_batch([[part for part in sample if part]] * draw(st.integers(1, 3)))


@settings(max_examples=25, deadline=None)
@given(
    kv_heads=st.sampled_from(sorted(MODELS)),
    batch=prompts(),
    depth=st.integers(0, 4),
    radius=st.none() | st.integers(0, 3),
    shares=st.sampled_from([(0.5, 0.5), (0.3, 1.0), (0.0, 0.6), (1.0, 0.0), (1.0, 1.0)]),
)
def test_formula_equals_count_under_any_plan(kv_heads, batch, depth, radius, shares):
    model = MODELS[kv_heads]
    plan = random_plan(toy_dims(model), depth, radius, 1, *shares)
    formula = len(batch["input_ids"]) * prefill_flops(plan, prompt_of(model, batch), VOCABULARY)
    try:
        run = LanguageModelCall(prune(model, plan), batch)
        attended, computed = counted_flops(run, "attended"), counted_flops(run, "computed")
    finally:
        unprune(model)
    assert attended == pytest.approx(formula, rel=0.01)
    assert computed >= attended


@pytest.mark.parametrize("kv_heads", sorted(MODELS))
@pytest.mark.parametrize("rows", [1, 3])
def test_formula_equals_count_of_the_stock_model(kv_heads, rows):
    model, batch = MODELS[kv_heads], toy_batch([[3, "image", 4]] * rows)
    dims, tokens = toy_dims(model), VISUAL + 7
    formula = rows * prefill_flops(PruningPlan.dense(dims), prompt_of(model, batch), VOCABULARY)
    run = LanguageModelCall(model, batch)
    assert counted_flops(run, "attended") == pytest.approx(formula, rel=0.01)
    upper = tokens * (tokens - 1) // 2  # what a causal kernel is handed and attends to nothing of
    more = counted_flops(run, "computed") - counted_flops(run, "attended")
    assert more == rows * dims.layers * dims.heads * 4 * dims.head_dim * upper


@pytest.mark.parametrize("name", FAMILIES)
def test_formula_equals_count_in_every_family(name):
    model = FAMILIES[name].toy()
    batch = inputs_of(name, model, "two images")
    plans = [PruningPlan.dense(toy_dims(model)), *(plan_of(model, mechanism) for mechanism in MECHANISMS)]
    for plan in plans:
        if not plan.is_dense:
            prune(model, plan)
        formula = prefill_flops(plan, prompt_of(model, batch), VOCABULARY)
        assert counted_flops(LanguageModelCall(model, batch), "attended") == pytest.approx(formula, rel=0.01)


def test_masks_save_nothing():
    """The authors' way computes what it masks."""
    model, batch = MODELS[4], toy_batch([[3, "image", 4]])
    stock = counted_flops(LanguageModelCall(model, batch), "computed")
    try:
        masked = prune(model, random_plan(toy_dims(model), 2, 1), "reference")
        assert counted_flops(LanguageModelCall(masked, batch, use_cache=False), "computed") >= stock
    finally:
        unprune(model)


def test_backward_is_counted():
    """With all weights frozen but the embeddings, backward is one more product a linear layer, attention 2.5 times."""
    model, batch = toy_llava(), toy_batch([[9]])
    model.requires_grad_(False)
    model.get_input_embeddings().weight.requires_grad_(True)
    dims, linear = toy_dims(model), 0

    def both() -> None:
        model(**batch, use_cache=False).logits.sum().backward()

    per_token = 4 * dims.hidden**2 + 3 * dims.hidden * dims.intermediate
    linear = 9 * 2 * (dims.layers * per_token + dims.hidden * VOCABULARY)
    attention = dims.layers * dims.heads * 4 * dims.head_dim * 9 * 9
    assert counted_flops(both, "computed") == pytest.approx(2 * linear + 3.5 * attention, rel=0.01)
