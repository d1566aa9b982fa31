"""A pruned model whose weights are elsewhere, sharded, or compiled: offloading, FSDP2, torch.compile."""

import copy

import pytest
import torch
import torch.distributed as dist
from accelerate import cpu_offload, dispatch_model
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from toy import random_plan, text_logits, text_positions, toy_batch, toy_dims, toy_llava

from yopo_train.errors import UserError
from yopo_train.pruning import prune, unprune

BATCH = toy_batch([[3, "image", 4], [2, "image", 1, "image", 2], [6]], seed=3)
OPTIONS = {"max_new_tokens": 5, "do_sample": False, "suppress_tokens": [98]}


def plan_of(model):
    return random_plan(toy_dims(model), 3, 1, seed=1)


def on_disk(model, folder):
    """Every other decoder layer on disk."""
    names = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]
    names += [f"model.language_model.{name}" for name in ("embed_tokens", "norm", "rotary_emb")]
    places = dict.fromkeys(names, "cpu")
    places |= {f"model.language_model.layers.{i}": ("disk" if i % 2 else "cpu") for i in range(4)}
    return dispatch_model(model, places, main_device="cpu", offload_dir=folder, force_hooks=True)


def in_memory(model, folder):
    """Everything is loaded only while its module runs, the vision tower too."""
    return cpu_offload(model, "cpu")


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("offload", [on_disk, in_memory])
def test_accelerate_loads_layers_while_they_run(tmp_path, kv_heads, offload):
    model = toy_llava(kv_heads)
    twin = prune(copy.deepcopy(model), plan_of(model))
    stock = text_logits(model, BATCH)
    model = offload(model, tmp_path)
    offloaded = {name for name, parameter in model.named_parameters() if parameter.is_meta}
    with pytest.warns(UserWarning, match="its weights are offloaded"):
        prune(model, plan_of(model))
    assert "model.language_model.layers.1.self_attn.q_proj.weight" in offloaded
    torch.testing.assert_close(text_logits(model, BATCH), text_logits(twin, BATCH), atol=1e-4, rtol=0)
    assert torch.equal(model.generate(**BATCH, **OPTIONS), twin.generate(**BATCH, **OPTIONS))
    assert {name for name, parameter in model.named_parameters() if parameter.is_meta} == offloaded
    assert torch.equal(text_logits(unprune(model), BATCH), stock)


def test_offloading_a_pruned_model_is_refused():
    """Its weights would stay in the plan's order for good."""
    model = toy_llava()
    model = in_memory(prune(model, plan_of(model)), None)
    with pytest.raises(UserError, match=r"its weights are offloaded\): do that first, then prune"):
        model(**BATCH)
    with pytest.raises(UserError, match="was replaced after the plan was put on"):
        unprune(model)


@pytest.fixture
def one_rank(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def sharded(model):
    for layer in model.model.language_model.layers:
        fully_shard(layer, mesh=dist.init_device_mesh("cpu", (1,)))
    return fully_shard(model, mesh=dist.init_device_mesh("cpu", (1,)))


def loss_of(model):
    labels = BATCH["input_ids"].clone()
    labels[:, :-1] = -100
    return model(**BATCH, labels=labels).loss


@pytest.mark.parametrize("prune_first", [True, False])
def test_fsdp2_shards_decoder_layers(one_rank, prune_first):
    model = toy_llava(2)
    before = copy.deepcopy(model).state_dict()
    twin = prune(copy.deepcopy(model), plan_of(model)).train()
    model = sharded(prune(model, plan_of(model))) if prune_first else prune(sharded(model), plan_of(model))
    losses = []
    for each in (model.train(), twin):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
        for _ in range(2):
            loss = loss_of(each)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    assert losses[:2] == pytest.approx(losses[2:], abs=1e-4) and losses[1] < losses[0]
    saved = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    expected = unprune(twin).state_dict()
    for name, tensor in saved.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-4, rtol=0)
    changed = [name for name in saved if not torch.equal(saved[name], before[name])]
    assert "model.language_model.layers.0.self_attn.q_proj.weight" in changed
    for name, tensor in unprune(model).state_dict().items():
        assert torch.equal(tensor.full_tensor(), saved[name])


@pytest.mark.slow
def test_compiled_model_computes_the_same():
    """Graphs break where shapes depend on the tokens, so nothing but the result is promised."""
    model = toy_llava(2, layers=2)
    prune(model, random_plan(toy_dims(model), 1, 1, seed=1))
    batch = toy_batch([[3, "image", 4], [5]])
    expected = text_logits(model, batch)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        logits = compiled(**batch).logits[text_positions(batch)]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
