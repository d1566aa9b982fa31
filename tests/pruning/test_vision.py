"""The vision tower of a pruned model: equal features, and no layer that nobody reads."""

import pytest
import torch
from toy import random_plan, toy_batch, toy_dims, toy_llava
from transformers import SiglipVisionConfig

from yopo_train.pruning import prune, unprune

BATCH = toy_batch([[3, "image", 4], ["image", 2]])
PIXELS = BATCH["pixel_values"]


def pruned(model):
    return prune(model, random_plan(toy_dims(model), 3, 1))


def layers_computed(model, call):
    """What a call returns, and which layers of the tower computed something."""
    computed = []
    handles = [
        layer.mlp.register_forward_hook(lambda *_, number=number: computed.append(number))
        for number, layer in enumerate(model.model.vision_tower.encoder.layers)
    ]
    with torch.no_grad():
        result = call()
    for handle in handles:
        handle.remove()
    return result, computed


READS = [(-1, 4), (-2, 3), (3, 3), (1, 1), ([-2, 1], 3), ([-4, -3], 2), ([-1, 2], 4)]


@pytest.mark.parametrize(("read", "expected"), READS)
def test_no_layer_behind_the_one_that_the_projector_reads(read, expected):
    model = toy_llava(vision_layers=4, vision_feature_layer=read)
    stock, everything = layers_computed(model, lambda: model(**BATCH).image_hidden_states)
    features, computed = layers_computed(model, lambda: pruned(model)(**BATCH).image_hidden_states)
    assert torch.equal(features, stock)
    assert everything == [0, 1, 2, 3] and computed == list(range(expected))
    again, everything = layers_computed(unprune(model), lambda: model(**BATCH).image_hidden_states)
    assert torch.equal(again, stock) and everything == [0, 1, 2, 3]


def test_tower_without_a_class_token():
    model = toy_llava(tower=SiglipVisionConfig, vision_layers=4)
    stock = model(**BATCH).image_hidden_states
    features, computed = layers_computed(model, lambda: pruned(model)(**BATCH).image_hidden_states)
    assert torch.equal(features, stock) and computed == [0, 1, 2]


def test_layer_that_the_call_names_wins():
    model = toy_llava(vision_layers=4)
    stock = model(**BATCH, vision_feature_layer=-1).image_hidden_states
    features, computed = layers_computed(
        model, lambda: pruned(model)(**BATCH, vision_feature_layer=-1).image_hidden_states
    )
    assert torch.equal(features, stock) and computed == [0, 1, 2, 3]


def test_generation_encodes_images_once_and_without_the_unread_layer():
    model = pruned(toy_llava(vision_layers=4))
    _, computed = layers_computed(model, lambda: model.generate(**BATCH, max_new_tokens=3, do_sample=False))
    assert computed == [0, 1, 2]


def test_outputs_of_the_tower_are_whole_or_none():
    """Nobody reads them in LLaVA, but whoever does must not get the output of a layer that did not run."""
    model = toy_llava(vision_layers=4)
    stock = model.get_image_features(PIXELS, output_hidden_states=True)
    alone = model.model.vision_tower(PIXELS)
    pruned(model)
    asked = model.get_image_features(PIXELS, output_hidden_states=True)
    assert torch.equal(asked.last_hidden_state, stock.last_hidden_state)
    assert all(map(torch.equal, asked.hidden_states, stock.hidden_states))
    assert torch.equal(model.model.vision_tower(PIXELS).pooler_output, alone.pooler_output)
    plain = model.get_image_features(PIXELS)
    assert plain.last_hidden_state is None and plain["last_hidden_state"] is None
    assert plain.hidden_states[-1] is None and len(plain.hidden_states) == 5
    assert all(map(torch.equal, plain.pooler_output, stock.pooler_output))


def test_a_foreign_forward_of_a_tower_layer_stays():
    model = toy_llava()
    layer = model.model.vision_tower.encoder.layers[-1]
    original = layer.forward
    layer.forward = wrapper = lambda *args, **kwargs: original(*args, **kwargs)
    pruned(model)(**BATCH)
    assert layer.forward is wrapper
    assert "get_image_features" not in vars(unprune(model).model)
