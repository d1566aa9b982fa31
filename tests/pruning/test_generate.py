"""`generate` on a pruned model: the reference's tokens, from a cache that keeps only what is needed."""

import pytest
import torch
from toy import IMAGE_TOKEN, random_plan, toy_batch, toy_dims, toy_llava
from transformers import DynamicCache

from yopo_train.bench.memory import cache_bytes
from yopo_train.cost import Prompt, kv_cache_bytes
from yopo_train.errors import UserError
from yopo_train.plan import PruningPlan
from yopo_train.pruning import dense_mode, prune, unprune

BATCH = toy_batch([[3, "image", 4], [2, "image", 1, "image", 2], [6]], seed=3)


def generate(model, batch, **kwargs):
    torch.manual_seed(0)
    options = {"max_new_tokens": 8, "do_sample": False, "suppress_tokens": [IMAGE_TOKEN], **kwargs}
    return model.generate(**batch, **options)


@pytest.fixture(scope="module", params=[4, 2], ids=["mha", "gqa"])
def model(request):
    return toy_llava(request.param)


@pytest.mark.parametrize(
    ("radius", "options"),
    [(None, {}), (1, {}), (1, {"num_beams": 3}), (None, {"do_sample": True, "num_return_sequences": 2})],
)
def test_cached_generation_gives_the_tokens_of_the_reference(model, radius, options):
    plan = random_plan(toy_dims(model), 3, radius, seed=1)
    compact = generate(prune(model, plan), BATCH, **options)
    reference = generate(prune(model, plan, "reference"), BATCH, use_cache=False, **options)
    unprune(model)
    assert torch.equal(compact, reference)


def test_assisted_decoding_crops_the_cache(model):
    batch = toy_batch([[3, "image", 2, 4]])
    plan = random_plan(toy_dims(model), 3, 1, seed=1)
    plain = generate(prune(model, plan), batch)
    looked_up = generate(model, batch, prompt_lookup_num_tokens=3, max_matching_ngram_size=1)
    unprune(model)
    assert torch.equal(plain, looked_up)


@pytest.mark.parametrize("radius", [None, 1])
def test_second_turn_with_a_new_image_on_the_same_cache(model, radius):
    first = toy_batch([[3, "image", 4], [5, "image", 1]], seed=1)
    second = toy_batch([[2, "image", 3], [3, "image", 4]], padding="left", seed=2)
    prune(model, random_plan(toy_dims(model), 3, radius, seed=1))
    whole = {name: torch.cat((first[name], second[name]), int(name != "pixel_values")) for name in first}
    # images of one sample must stand together: sample 0 has images 0 and 2
    whole["pixel_values"] = whole["pixel_values"][[0, 2, 1, 3]]
    with torch.no_grad():
        cache = model(**first, use_cache=True).past_key_values
        mask = torch.cat((first["attention_mask"], second["attention_mask"]), 1)
        continued = model(**{**second, "attention_mask": mask}, past_key_values=cache).logits
        # position ids of a continued chat count all columns, as a forward pass over the whole prompt does
        at_once = model(**whole, use_cache=False).logits[:, first["input_ids"].shape[1] :]
    unprune(model)
    text = second["attention_mask"].bool() & (second["input_ids"] != IMAGE_TOKEN)
    torch.testing.assert_close(continued[text], at_once[text], atol=1e-4, rtol=0)


@pytest.mark.parametrize("radius", [None, 1])
@pytest.mark.parametrize("cut", [1, 17])
def test_a_lone_text_token_does_not_see_the_image_behind_it(model, radius, cut):
    """One text token and an image in one pass, fresh or on a cache: found by review, it once saw ahead."""
    whole = toy_batch([[1, "image", 1, "image", 3]])
    prune(model, random_plan(toy_dims(model), 3, radius, seed=1))
    first = {"input_ids": whole["input_ids"][:, : cut + 16 * (cut == 1)], "pixel_values": whole["pixel_values"][:1]}
    seen = first["input_ids"].shape[1]
    second = {"input_ids": whole["input_ids"][:, seen : seen + 17], "pixel_values": whole["pixel_values"][1:]}
    with torch.no_grad():
        cache = model(**first, use_cache=True).past_key_values
        cache = model(**second, past_key_values=cache).past_key_values
        continued = model(input_ids=whole["input_ids"][:, seen + 17 :], past_key_values=cache).logits
        at_once = model(**whole).logits[:, seen + 17 :]
    unprune(model)
    torch.testing.assert_close(continued, at_once, atol=1e-4, rtol=0)


def test_a_placeholder_without_an_image_is_an_ordinary_token(model):
    batch = toy_batch([[3]])
    batch["input_ids"][0, 1] = IMAGE_TOKEN
    stock = generate(model, batch)
    pruned = generate(prune(model, random_plan(toy_dims(model), 3, 1)), batch)
    unprune(model)
    assert torch.equal(pruned, stock)


def test_cache_holds_visual_keys_only_where_an_active_head_reads_them(model):
    batch = toy_batch([[3, "image", 4]])
    dims = toy_dims(model)
    plan = random_plan(dims, 3, None, seed=5, heads=0.3)
    prompt = Prompt(grids=[(1, 4, 4)], text_tokens=7)
    cache = prune(model, plan)(**batch, use_cache=True).past_key_values
    unprune(model)
    assert cache_bytes(cache) == kv_cache_bytes(plan, prompt, bytes_per_value=4)
    assert cache.get_seq_length() == batch["input_ids"].shape[1]


def test_gqa_keeps_a_kv_head_while_one_of_its_query_heads_is_active():
    model = toy_llava(kv_heads=2)
    dims, batch = toy_dims(model), toy_batch([[3, "image", 4]])

    def bytes_of(active):
        heads = torch.zeros(dims.layers, dims.heads, dtype=torch.bool)
        heads[0, active] = True
        channels = torch.zeros(dims.layers, dims.intermediate, dtype=torch.bool)
        plan = PruningPlan(dims, heads, channels, None, 1)
        cache = prune(model, plan)(**batch, use_cache=True).past_key_values
        unprune(model)
        return cache_bytes(cache)

    none, one, same_group, both_groups = map(bytes_of, ([], [0], [0, 1], [1, 2]))
    assert none < one == same_group < both_groups


def test_cache_of_another_plan_is_refused(model):
    batch = toy_batch([[3, "image", 4]])
    dims = toy_dims(model)
    more = {"input_ids": torch.tensor([[7]]), "use_cache": True}
    cache = prune(model, random_plan(dims, 3, 1, seed=1))(**batch, use_cache=True).past_key_values
    prune(model, random_plan(dims, 3, 1, seed=2))
    with pytest.raises(UserError, match="filled under plan"):
        model(**more, past_key_values=cache)
    unprune(model)
    with pytest.raises(UserError, match="unpruned model cannot continue"):
        model(**more, past_key_values=cache)
    stock = model(**batch, past_key_values=DynamicCache(), use_cache=True).past_key_values
    prune(model, random_plan(dims, 3, 1, seed=1))
    with pytest.raises(UserError, match="filled by the unpruned model"):
        model(**more, past_key_values=stock)
    unprune(model)


def test_dense_mode_generates_what_the_base_model_does(model):
    base = generate(model, BATCH)
    prune(model, random_plan(toy_dims(model), 2, 1))
    with dense_mode(model):
        dense = generate(model, BATCH)
    pruned = generate(model, BATCH)
    unprune(model)
    assert torch.equal(dense, base)
    assert not torch.equal(pruned, base)
