"""Every family x every mechanism: what `generate` gives, and what its KV cache holds."""

import pytest
import torch
from families import FAMILIES
from families.matrix import MECHANISMS, VIDEOS, inputs_of, plan_of, videos_of
from toy import toy_dims

from yopo_train.bench.memory import cache_bytes
from yopo_train.cost import kv_cache_bytes
from yopo_train.errors import UserError
from yopo_train.models import family_of
from yopo_train.models.prompt import prompt_of
from yopo_train.plan import PruningPlan
from yopo_train.pruning import dense_mode, prune, unprune
from yopo_train.pruning.cache import CompactCacheLayer

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


def test_assisted_decoding_crops_the_cache(name, model, monkeypatch):
    batch = inputs_of(name, model, "two images")
    plain = generate(prune(model, plan_of(model, "all")), batch)
    crop, cropped = CompactCacheLayer.crop, []
    monkeypatch.setattr(CompactCacheLayer, "crop", lambda *args: cropped.append(crop(*args)))
    assert torch.equal(generate(model, batch, prompt_lookup_num_tokens=3, max_matching_ngram_size=1), plain)
    assert cropped


def test_static_caches_are_refused(name, model):
    """Their masks differ: one of whole sequences, or several by kind of layer."""
    prune(model, plan_of(model, "all"))
    with pytest.raises(UserError, match="a StaticCache cannot hold a pruned model's keys, expected a DynamicCache"):
        generate(model, inputs_of(name, model, "padded left"), cache_implementation="static")


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
