"""Cost formulas against the paper's numbers and against counting by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plan import plans

from yopo_train.calibration.plan_config import PRESETS
from yopo_train.cost import Prompt, dense_visual_flops, kv_cache_bytes, layer_flops, prefill_flops, visual_flops
from yopo_train.errors import UserError
from yopo_train.plan import ModelDims, PruningPlan

LLAVA_7B = ModelDims(layers=32, hidden=4096, intermediate=11008, heads=32, kv_heads=32, head_dim=128)
LLAVA_13B = ModelDims(layers=40, hidden=5120, intermediate=13824, heads=40, kv_heads=40, head_dim=128)
QWEN2_VL_7B = ModelDims(layers=28, hidden=3584, intermediate=18944, heads=28, kv_heads=4, head_dim=128)
INTERNVL2_4B = ModelDims(layers=32, hidden=3072, intermediate=8192, heads=32, kv_heads=32, head_dim=96)
INTERNVL2_8B = ModelDims(layers=32, hidden=4096, intermediate=14336, heads=32, kv_heads=8, head_dim=128)
INTERNVL2_26B = ModelDims(layers=48, hidden=6144, intermediate=16384, heads=48, kv_heads=8, head_dim=128)

grids = st.lists(st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 4)), max_size=3)


@st.composite
def prompts(draw) -> Prompt:
    images = draw(grids)
    before = sorted(draw(st.lists(st.integers(0, 4), min_size=len(images), max_size=len(images))))
    return Prompt(images, draw(st.integers(4, 8)), before)


@pytest.mark.parametrize(("dims", "tera"), [(LLAVA_7B, 7.63), (LLAVA_13B, 14.89)])
def test_paper_base_cost(dims, tera):
    assert round(dense_visual_flops(dims, 576) / 1e12, 2) == tera
    assert visual_flops(PruningPlan.dense(dims), [(1, 24, 24)]) == dense_visual_flops(dims, 576)


# the paper's TFLOPs of base and pruned; visual tokens that give the base's, by our formula and by the one as printed
OTHERS = [
    ("qwen2-vl-7b", QWEN2_VL_7B, 44.25, 30.51, 3096, 2867),
    ("internvl2-4b", INTERNVL2_4B, 25.68, 18.42, 3041, 3041),
    ("internvl2-8b", INTERNVL2_8B, 44.25, 33.19, None, None),
    ("internvl2-26b", INTERNVL2_26B, 129.4, 64.7, 3144, 2768),
]


def as_printed(dims: ModelDims, n: int) -> float:
    """The paper's formula to the letter: all of d for keys and values, too, however many query heads share them."""
    d, m = dims.hidden, dims.intermediate
    return float(dims.layers * (2 * n * (4 * d**2 + 3 * d * m) + 4 * n**2 * d))


@pytest.mark.parametrize(("name", "dims", "base", "pruned", "grouped", "printed"), OTHERS)
def test_papers_numbers_whose_visual_tokens_are_not_known(name, dims, base, pruned, grouped, printed):
    """They cannot be derived: the formula needs a number of visual tokens, and we know of none that the paper gives.

    What can be: how many there would have to be. For InternVL-2.0 it is no multiple of the 256 tokens of a tile, so it
    is no image's, at best an average. The 44.25 that InternVL2-8B shares with Qwen2-VL-7B comes from no whole number of
    tokens at all, grouped queries or not: it looks like Qwen's. The shares that stay are the budgets of our presets.
    """
    digits = 1 if base > 100 else 2
    for formula, expected in ((dense_visual_flops, grouped), (as_printed, printed)):
        found = [n for n in range(1, 5000) if round(formula(dims, n) / 1e12, digits) == base]
        assert (expected in found) if expected else not found
        assert name == "qwen2-vl-7b" or all(n % 256 for n in found)
    assert round(pruned / base, 2) == PRESETS[f"paper-{name}"].budget


def test_the_formula_as_printed_is_ours_without_grouped_queries():
    for dims in (LLAVA_7B, LLAVA_13B, INTERNVL2_4B):
        assert as_printed(dims, 576) == dense_visual_flops(dims, 576)


def test_grouped_queries_shrink_keys_and_values_only():
    full, grouped = ModelDims(1, 8, 8, 4, 4, 2), ModelDims(1, 8, 8, 4, 1, 2)
    assert dense_visual_flops(full, 1) - dense_visual_flops(grouped, 1) == 2 * (2 * 8 * 2 * 3)


def layout(prompt: Prompt) -> list[tuple[int, int, int, int] | None]:
    """The sequence, token by token: (image, frame, row, column), or None for text."""
    tokens, used = [], 0
    for image, ((frames, rows, columns), before) in enumerate(zip(prompt.grids, prompt.text_before, strict=True)):
        tokens += [None] * (before - used)
        tokens += [(image, t, r, c) for t in range(frames) for r in range(rows) for c in range(columns)]
        used = before
    return tokens + [None] * (prompt.text_tokens - used)


def near(query: tuple, key: tuple, radius: int | None) -> bool:
    if radius is None:
        return True
    return query[:2] == key[:2] and max(abs(query[2] - key[2]), abs(query[3] - key[3])) <= radius


@given(plans(), prompts())
@settings(max_examples=60, deadline=None)
def test_costs_equal_counting_token_by_token(plan, prompt):
    dims, tokens, dense = plan.dims, layout(prompt), plan.is_dense
    visual = prefill = cache = 0
    for layer in range(dims.layers):
        below = prefill
        alive, last = layer < plan.depth, layer == plan.depth - 1 and not dense
        heads, kv_heads = int(plan.heads[layer].sum()), int(plan.kv_heads_needed(layer).sum())
        attention = 4 * dims.head_dim
        for i, query in enumerate(tokens):
            is_text = query is None
            sizes = (dims.heads, dims.kv_heads, dims.intermediate) if is_text else (0, 0, 0)
            if not is_text and alive:
                sizes = (0, kv_heads, 0) if last else (heads, kv_heads, int(plan.channels[layer].sum()))
            linear = 4 * dims.hidden * dims.head_dim * (sizes[0] + sizes[1]) + 6 * dims.hidden * sizes[2]
            prefill += linear
            cache += 2 * dims.head_dim * sizes[1] * 2
            if not is_text:
                visual += linear
            for j, key in enumerate(tokens):
                if is_text and key is None:
                    prefill += attention * dims.heads * (j <= i)
                elif is_text or key is None:
                    prefill += attention * heads * (j <= i) * (is_text or not last)
                elif not last and near(query, key, plan.radius):
                    prefill += attention * heads * (j <= i)
                    visual += attention * heads
        assert layer_flops(plan, prompt)[layer] == prefill - below
    assert visual_flops(plan, prompt.grids) == visual
    assert prefill_flops(plan, prompt) == prefill
    assert prefill_flops(plan, prompt, vocab=11) == prefill + 2 * dims.hidden * 11
    assert kv_cache_bytes(plan, prompt) == cache == kv_cache_bytes(plan, prompt, 4) / 2


@given(plans(), st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_a_text_only_prompt_costs_what_the_base_model_costs(plan, text):
    base, prompt = PruningPlan.dense(plan.dims), Prompt([], text)
    assert visual_flops(plan, []) == 0
    assert prefill_flops(plan, prompt) == prefill_flops(base, prompt)
    assert kv_cache_bytes(plan, prompt) == kv_cache_bytes(base, prompt)


def test_text_before_needs_one_number_an_image():
    assert Prompt([(1, 2, 2), (2, 1, 3)], 5, [0, 3]).visual_tokens == 10
    with pytest.raises(UserError, match="text_before has 1 numbers for 2 images"):
        Prompt([(1, 2, 2), (1, 2, 2)], 5, [0])


def test_depth_zero_costs_nothing_visual():
    nothing = torch.zeros(LLAVA_7B.layers, LLAVA_7B.heads, dtype=torch.bool)
    channels = torch.zeros(LLAVA_7B.layers, LLAVA_7B.intermediate, dtype=torch.bool)
    plan = PruningPlan(LLAVA_7B, nothing, channels, None, 0)
    assert visual_flops(plan, [(1, 24, 24)]) == 0
    assert kv_cache_bytes(plan, Prompt([(1, 24, 24)], 0)) == 0
