"""What a decoded token costs on a pruned model: no more kernels than on the stock model, no copy of cached keys."""

import pytest
import torch
from families import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from toy import random_plan, toy_batch, toy_dims, toy_llava

from yopo_train.pruning import prune
from yopo_train.pruning.heads import HeadGroups


class Kernels(TorchDispatchMode):
    """Names of the operators that compute something, views left out."""

    def __init__(self):
        super().__init__()
        self.names, self.largest = [], {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            name = func.overloadpacket.__name__
            self.names.append(name)
            if isinstance(out, torch.Tensor):
                self.largest[name] = max(self.largest.get(name, 0), out.numel())
        return out


def decode_one(model, batch) -> Kernels:
    """The operators of the second decoded token, from a full cache; nothing is padded."""
    token = batch["input_ids"][:, -1:]
    with torch.no_grad():
        cache = model(**batch, use_cache=True, logits_to_keep=1).past_key_values
        for _ in range(2):
            with Kernels() as kernels:
                model(input_ids=token, past_key_values=cache, logits_to_keep=1)
    return kernels


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("radius", [None, 1])
def test_a_token_launches_no_more_kernels_than_on_the_stock_model(kv_heads, radius):
    model, batch = toy_llava(kv_heads, layers=8), toy_batch([[3, "image", 4]])
    stock = decode_one(model, batch).names
    pruned = decode_one(prune(model, random_plan(toy_dims(model), 4, radius, seed=1)), batch).names
    assert len(pruned) <= len(stock)
    assert pruned.count("mm") == stock.count("mm")


@pytest.mark.parametrize("name", FAMILIES)
def test_nor_does_one_of_any_family(name):
    model = FAMILIES[name].toy(num_hidden_layers=8)
    batch = FAMILIES[name].toy_inputs(model, [[3, "image", 4]])
    stock = decode_one(model, batch).names
    pruned = decode_one(prune(model, random_plan(toy_dims(model), 4, 1, seed=1)), batch).names
    assert len(pruned) <= len(stock)
    assert pruned.count("mm") == stock.count("mm")


def test_grouped_heads_copy_no_cached_keys():
    model, batch = toy_llava(2), toy_batch([[3, "image", "image", "image", 4]])
    kernels = decode_one(prune(model, random_plan(toy_dims(model), 4, 1, heads=1.1)), batch)
    assert kernels.largest.get("index", 0) <= 4 * 12, "only queries and outputs of one token are picked"


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), max_size=9), st.integers(1, 2))
def test_folded_queries_meet_their_own_keys(heads, batch):
    groups = HeadGroups.of(torch.tensor(heads, dtype=torch.long), 4)
    q, keys = torch.randn(batch, len(heads), 1, 6), torch.randn(batch, 4, 5, 6)
    expected = q @ groups.pick(keys).transpose(2, 3)
    if heads:
        scores = groups.fold(q, 4) @ keys.transpose(2, 3)
        torch.testing.assert_close(groups.unfold(scores), expected)
    assert groups.regular == (heads == sorted(heads) and len({heads.count(kv) for kv in range(4)}) == 1)
