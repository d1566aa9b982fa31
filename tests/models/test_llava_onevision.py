"""LLaVA-OneVision: grids of images of any size, of several images in a sample, and of videos."""

import pytest
import torch
from families import llava_onevision as fixture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import LlavaOnevisionConfig

from yopo_train.models import family_of
from yopo_train.models.prompt import visual_mask

MODEL, PROCESSOR = fixture.toy(), fixture.toy_processor()
FAMILY = family_of(MODEL)
SIZE = st.tuples(st.integers(1, 120), st.integers(1, 120))  # height, width
REAL = LlavaOnevisionConfig()
NEWLINE = (1, 1, 1)


def grids(batch):
    return FAMILY.grids(MODEL.config, visual_mask(MODEL, batch), batch)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(SIZE, max_size=2), min_size=1, max_size=3), st.booleans())
def test_grids_are_what_the_processor_writes(samples, nested):
    """A flat list is taken for one image a sample; nested lists say how many each has, and several are not tiled."""
    images = [[Image.new("RGB", (width, height)) for height, width in sample] for sample in samples]
    if not nested:
        images = [image for sample in images for image in sample]
    texts = ["a " + "<image> b " * len(sample) for sample in samples]
    any_image = any(samples)
    batch = PROCESSOR(images=images if any_image else None, text=texts, padding=True, return_tensors="pt")
    found = grids(batch)
    assert [len(sample) for sample in found] == [2 * len(sample) for sample in samples]
    for sample, sizes in zip(found, samples, strict=True):
        untiled = nested and len(sizes) > 1
        assert all((grid == NEWLINE) == untiled for grid in sample[1::2])
    if any_image:
        arguments = {name: batch[name] for name in ("pixel_values", "image_sizes", "batch_num_images")}
        with torch.no_grad():
            features = MODEL.model.get_image_features(**arguments).pooler_output
        tokens = [rows * columns for sample in found for _, rows, columns in sample]
        assert [a + b for a, b in zip(tokens[::2], tokens[1::2], strict=True)] == [len(each) for each in features]


@pytest.mark.parametrize(
    ("size", "grid"),
    [((384, 384), (27, 28)), ((768, 768), (54, 55)), ((2304, 2304), (81, 82)), ((480, 640), (40, 55))],
)
def test_grids_at_real_size(size, grid):
    """By hand: 162 x 162 tokens are shrunk to those of nine tiles, 81 x 81; 480 x 640 fills 40.5 rows of 54 x 54."""
    assert FAMILY.image_grids(REAL, {"image_sizes": torch.tensor([size])}, "image") == [[(1, 27, 27), (1, *grid)]]


@pytest.mark.parametrize("sample", [[("image", 20, 15)], ["image", "image"], [("video", 2)]])
def test_newline_tokens_end_rows_images_and_videos(sample):
    batch = fixture.toy_inputs(MODEL, [sample])
    (found,) = grids(batch)
    with torch.no_grad():
        if "pixel_values" in batch:
            arguments = {name: batch[name] for name in ("pixel_values", "image_sizes", "batch_num_images")}
            features = MODEL.model.get_image_features(**arguments).pooler_output
        else:
            features = MODEL.model.get_video_features(batch["pixel_values_videos"]).pooler_output
    is_newline = (torch.cat(list(features)) == MODEL.model.image_newline).all(1)
    tiled, expected = found[-1] != NEWLINE, []
    for number, (frames, rows, columns) in enumerate(found):
        ends = number % 2 == 1  # a row's last token in a grid of tiles, or the newline alone
        expected += ([False] * (columns - 1) + [ends]) * frames * rows
    assert tiled == (sample == [("image", 20, 15)]) and is_newline.tolist() == expected


def test_several_images_and_a_video_in_one_sample():
    batch = fixture.toy_inputs(MODEL, [[1, "image", 2, ("video", 3), "image", 2], [("video", 3), 1], ["image", 1]])
    untiled, video = [(1, 3, 3), NEWLINE], [(3, 2, 2), NEWLINE]
    assert grids(batch) == [untiled + video + untiled, video, [(1, 3, 3), (1, 5, 4)]]


def test_features_that_generate_has_encoded_say_which_images_are_tiled():
    batch = fixture.toy_inputs(MODEL, [[1, "image", "image", 2, ("video", 3)], ["image", 1]])
    expected, sizes = grids(batch), batch["image_sizes"]
    with torch.no_grad():
        encoded = {
            "image": MODEL.model.get_image_features(batch["pixel_values"], sizes, batch_num_images=[2, 1]),
            "video": MODEL.model.get_video_features(batch["pixel_values_videos"]),
        }
    inputs = {"input_ids": batch["input_ids"], "mm_encoder_outputs": encoded, "image_sizes": sizes}
    assert grids(inputs) == expected


def test_every_layer_of_the_tower_is_read():
    assert FAMILY.unread_vision_layers(MODEL.model, {}) == []
