"""Bytes counted from tensors."""

import torch
from torch import nn
from toy import random_plan, toy_batch, toy_dims, toy_llava

from yopo_train.bench.memory import LiveBytes, cache_bytes, peak_bytes, weight_bytes
from yopo_train.pruning import prune


def test_live_bytes_follow_what_is_alive():
    given = torch.zeros(1000)
    with LiveBytes([given]) as live:
        assert live.now == 4000
        view = given[:10]
        assert live.now == 4000
        more = given + 1
        assert live.now == 8000
        del more
        assert live.now == 4000
        wide = torch.zeros(500, dtype=torch.float64)
        assert live.now == 8000
    assert live.peak == 8000 and len(view) < len(wide)


def test_live_bytes_of_a_graph_stay_until_backward():
    weight = torch.ones(1000, requires_grad=True)
    with LiveBytes([weight]) as live:
        loss = weight.exp().sin().sum()
        assert live.now == 4000 + 4000 + 4  # the result of exp is kept for backward, that of sin is not
        loss.backward()
        weight.grad = None
        del loss
        assert live.now == 4000


def test_shared_weights_count_once():
    first, second = nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False)
    second.weight = first.weight
    assert weight_bytes(nn.Sequential(first, second)) == 400


def test_peak_and_cache_of_a_model():
    model, batch = toy_llava(), toy_batch([[3, "image", 4]])
    outputs = []

    def run() -> None:
        with torch.inference_mode():
            outputs.append(model(**batch, use_cache=True))

    weights, inputs = weight_bytes(model), sum(x.nbytes for x in batch.values())
    found = peak_bytes(model, batch.values(), run)
    cache = cache_bytes(outputs[0].past_key_values)
    dims = toy_dims(model)
    assert cache == 2 * dims.layers * dims.hidden * batch["input_ids"].numel() * 4
    assert weights + inputs + cache + outputs[0].logits.nbytes <= found < 3 * weights
    prune(model, random_plan(dims, 2, 1))
    run()
    assert weight_bytes(model) == weights
    assert cache_bytes(outputs[1].past_key_values) < cache
