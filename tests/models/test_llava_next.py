"""LLaVA-NeXT: the grids of images of any size are those that the processor writes and the model fills."""

import pytest
import torch
from families import llava_next as fixture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPVisionConfig, LlavaNextConfig

from yopo_train.errors import UserError
from yopo_train.models import family_of
from yopo_train.models.prompt import prompt_of, visual_mask

MODEL, PROCESSOR = fixture.toy(), fixture.toy_processor()
FAMILY = family_of(MODEL)
SIZE = st.tuples(st.integers(1, 120), st.integers(1, 120))  # height, width
LLAVA_16 = LlavaNextConfig(vision_config=CLIPVisionConfig(image_size=336, patch_size=14))


def grids(model, batch):
    return family_of(model).grids(model.config, visual_mask(model, batch), batch)


def sized(config, *sizes):
    """The grids of images of these (height, width)."""
    return FAMILY.image_grids(config, {"image_sizes": torch.tensor(sizes)}, "image")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(SIZE, max_size=2), min_size=1, max_size=3))
def test_grids_are_what_the_processor_writes(samples):
    """It counts the tokens by other code than the model; the grids fill both."""
    images = [Image.new("RGB", (width, height)) for sample in samples for height, width in sample]
    texts = ["a " + "<image> b " * len(sample) for sample in samples]
    batch = PROCESSOR(images=images or None, text=texts, padding=True, return_tensors="pt")
    found = grids(MODEL, batch)
    assert [len(sample) for sample in found] == [2 * len(sample) for sample in samples]
    if images:
        with torch.no_grad():
            features = MODEL.model.get_image_features(batch["pixel_values"], batch["image_sizes"]).pooler_output
        pairs = [grid for sample in found for grid in sample]
        tokens = [rows * columns for _, rows, columns in pairs]
        assert [a + b for a, b in zip(tokens[::2], tokens[1::2], strict=True)] == [len(each) for each in features]


def test_newline_tokens_are_the_last_column():
    """Where they stand is read off the features, in which all newlines are the same."""
    batch = fixture.toy_inputs(MODEL, [[("image", 20, 15)]])
    ((thumbnail, (_, rows, columns)),) = grids(MODEL, batch)
    with torch.no_grad():
        (features,) = MODEL.model.get_image_features(batch["pixel_values"], batch["image_sizes"]).pooler_output
    is_newline = (features == MODEL.model.image_newline).all(1)
    assert thumbnail == (1, 3, 3) and not is_newline[:9].any()
    assert is_newline[9:].view(rows, columns).tolist() == [[False] * (columns - 1) + [True]] * rows


@pytest.mark.parametrize(
    ("size", "grid"),
    [((672, 672), (48, 49)), ((336, 672), (24, 49)), ((480, 640), (36, 49)), ((1000, 200), (72, 15))],
)
def test_grids_of_llava_16(size, grid):
    """By hand: 640 x 480 fills 48 x 36 of 48 x 48 tokens, and each row has a newline."""
    assert sized(LLAVA_16, size) == [[(1, 24, 24), (1, *grid)]]


def test_tokens_that_fill_no_image():
    batch = fixture.toy_inputs(MODEL, [[3, "image", 2]])
    batch["image_sizes"] = torch.tensor([[30, 30]])
    with pytest.raises(UserError, match="sample 0 of the batch holds 30 more visual tokens, expected 42"):
        grids(MODEL, batch)


def test_image_sizes_are_needed():
    batch = fixture.toy_inputs(MODEL, [[3, "image", 2]])
    del batch["image_sizes"]
    with pytest.raises(UserError, match="image_sizes is missing"):
        grids(MODEL, batch)


def test_prompt_of_a_batch():
    prompt = prompt_of(MODEL, fixture.toy_inputs(MODEL, [[3, "image", 2]]))
    assert prompt.grids == [(1, 3, 3), (1, 6, 5)]
    assert (prompt.text_tokens, prompt.text_before) == (5, [3, 3])


def test_last_layer_of_the_tower_is_not_read():
    layers = MODEL.model.vision_tower.encoder.layers
    assert FAMILY.unread_vision_layers(MODEL.model, {}) == [layers[2]]


def test_random_image_for_bench():
    config = LlavaNextConfig(vision_config=CLIPVisionConfig(image_size=336, patch_size=14))
    shaped = FAMILY.shape_image(config, 2928)
    assert shaped == [(1, 24, 24), (1, 48, 49)]
    images = FAMILY.random_images(config, torch.zeros(2, 9), shaped)
    assert images["pixel_values"].shape == (2, 5, 3, 336, 336)
    assert FAMILY.image_grids(config, images, "image") == [shaped] * 2
    with pytest.raises(UserError, match=r"is 576, expected .* 520 of 10 x 10 each, or the model's own 2928"):
        FAMILY.shape_image(config, 576)
