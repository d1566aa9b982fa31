"""InternVL: a grid a tile, and the layers of the vision tower that nobody reads."""

import pytest
import torch
from families import internvl as fixture
from families import internvl2_internlm2
from families.matrix import text_logits
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from toy import random_plan, toy_dims
from transformers import InternVLConfig, InternVLVisionConfig

from yopo_train.errors import UserError
from yopo_train.models import family_of
from yopo_train.models.prompt import visual_mask
from yopo_train.plan import PruningPlan
from yopo_train.pruning import prune, unprune

MODEL, PROCESSOR = fixture.toy(), fixture.toy_processor()
FAMILY = family_of(MODEL)
SIZE = st.tuples(st.integers(1, 150), st.integers(1, 150))  # height, width
TILE = (1, 3, 3)


def grids(batch):
    return FAMILY.grids(MODEL.config, visual_mask(MODEL, batch), batch)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(SIZE, max_size=2), min_size=1, max_size=3))
def test_grids_are_what_the_processor_writes(samples):
    images = [Image.new("RGB", (width, height)) for sample in samples for height, width in sample]
    texts = ["a " + "<IMG_CONTEXT> b " * len(sample) for sample in samples]
    batch = PROCESSOR(images=images or None, text=texts, padding=True, return_tensors="pt")
    tiles = [
        sum(PROCESSOR.image_processor.get_number_of_image_patches(*size, {"crop_to_patches": True}) for size in sample)
        for sample in samples
    ]
    assert grids(batch) == [[TILE] * count for count in tiles]


def test_tokens_of_an_image_without_pixels():
    batch = fixture.toy_inputs(MODEL, [[3, "image", 2, "image"]])
    batch["pixel_values"] = batch["pixel_values"][:3]
    with pytest.raises(UserError, match="sample 0 of the batch holds 27 more visual tokens"):
        grids(batch)


def test_tiles_of_another_size():
    """The tower would interpolate, and a tile's tokens fill another grid."""
    batch = fixture.toy_inputs(MODEL, [[3, "image", 2]])
    batch["pixel_values"] = torch.zeros(3, 3, 32, 32)
    with pytest.raises(UserError, match="a tile of pixel_values has 32 x 32 pixels, expected 24 x 24"):
        grids(batch)


@pytest.mark.parametrize(
    "config",
    [
        InternVLConfig(vision_feature_select_strategy="full"),
        InternVLConfig(vision_config=InternVLVisionConfig(image_size=[448, 224])),
    ],
    ids=["class token", "not square"],
)
def test_towers_whose_tokens_fill_no_grid(config):
    with pytest.raises(UserError, match="expected a square and 'default'"):
        FAMILY.image_grids(config, {"pixel_values": torch.zeros(1, 3, 448, 448)}, "image")


@pytest.mark.parametrize(("layer", "unread"), [(-1, []), (-2, [1]), (1, [1]), (2, [])])
def test_unread_layers_of_the_tower_change_nothing(layer, unread):
    model = fixture.toy(vision_feature_layer=layer)
    layers = model.model.vision_tower.encoder.layer
    assert FAMILY.unread_vision_layers(model.model, {}) == [layers[index] for index in unread]
    batch = fixture.toy_inputs(model, [[3, "image", 2]])
    stock = text_logits(model, batch)
    pruned = prune(model, PruningPlan.dense(toy_dims(model)))
    torch.testing.assert_close(text_logits(pruned, batch), stock, atol=1e-4, rtol=0)


@pytest.mark.parametrize("text_type", ["llama", "qwen3"])
def test_other_language_models(text_type):
    """Qwen2 is in the matrix of all families."""
    model = fixture.toy(text_type=text_type)
    batch = fixture.toy_inputs(model, [[3, "image", 4], [2, ("image", 1, 1), 3]])
    plan = random_plan(toy_dims(model), 3, 1)
    compact = text_logits(prune(model, plan), batch)
    reference = text_logits(prune(model, plan, "reference"), batch, use_cache=False)
    unprune(model)
    torch.testing.assert_close(compact, reference, atol=1e-4, rtol=0)


def test_frequencies_of_a_prompt_longer_than_the_model_was_made_for():
    """InternLM2's dynamic RoPE depends on the prompt's length; so does Phi-3's, which the matrix has."""
    model, usual = internvl2_internlm2.toy(max_position_embeddings=24), internvl2_internlm2.toy()
    batch = fixture.toy_inputs(model, [[3, "image", 4], [2, ("image", 1, 1), 3]])
    stock, plan = text_logits(model, batch), random_plan(toy_dims(model), 3, 1)
    assert (stock - text_logits(usual, batch)).abs().max() > 1e-3
    dense = text_logits(prune(model, PruningPlan.dense(plan.dims)), batch)
    compact = text_logits(prune(model, plan), batch)
    reference = text_logits(prune(model, plan, "reference"), batch, use_cache=False)
    torch.testing.assert_close(dense, stock, atol=1e-4, rtol=0)
    torch.testing.assert_close(compact, reference, atol=1e-4, rtol=0)


def test_random_image_for_bench():
    config = InternVLConfig()
    shaped = FAMILY.shape_image(config, 3 * 256)
    assert shaped == [(1, 16, 16)] * 3
    images = FAMILY.random_images(config, torch.zeros(2, 9), shaped)
    assert images["pixel_values"].shape == (6, 3, 448, 448)
    with pytest.raises(UserError, match="--visual-tokens is 576, expected a multiple of 256"):
        FAMILY.shape_image(config, 576)
