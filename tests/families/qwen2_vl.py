"""Qwen2-VL: mRoPE, biases in q/k/v, images of any size and videos, ``[start, placeholders, end]`` in the prompt."""

import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessorPil, Qwen2VLProcessor

from yopo_train.models.processors import images_only

from .common import large, media, prompts, text_config
from .processing import chat_template, toy_tokenizer

VIDEO = True
TWO_IMAGES = ("image", 2, 3), ("image", 4, 2)
IMAGE, VIDEO_PAD, START, END = 90, 91, 92, 93
PATCH, MERGE, TEMPORAL = 4, 2, 2
SPECIAL = {"image_token_id": IMAGE, "video_token_id": VIDEO_PAD, "vision_start_token_id": START}
SPECIAL["vision_end_token_id"] = END
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}
PATCHES = {"patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": TEMPORAL, "num_heads": 2}


def toy(seed=0, **text):
    torch.manual_seed(seed)
    fields = text_config(rope_parameters=ROPE, **text)
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": fields["hidden_size"], "mlp_ratio": 2, **PATCHES}
    config = Qwen2VLConfig(text_config=fields, vision_config=vision, **SPECIAL)
    return large(Qwen2VLForConditionalGeneration(config))


def toy_inputs(model, samples, padding="left", seed=0):
    """An image without a size has 4 x 4 visual tokens, a video two frames of 2 x 3."""
    generator = torch.Generator().manual_seed(seed)
    return with_pixels(prompts(samples, block, padding, generator), samples, generator)


def block(part, generator):
    """Tokens of an image or of a whole video."""
    frames, rows, columns = size_of(part)
    placeholder = VIDEO_PAD if kind_of(part) == "video" else IMAGE
    return [START, *[placeholder] * (frames * rows * columns), END]


def with_pixels(batch, samples, generator):
    """The batch with the pixels, grids and token types of its images and videos."""
    ids = batch["input_ids"]
    batch["mm_token_type_ids"] = (ids == IMAGE).int() + 2 * (ids == VIDEO_PAD).int()
    for kind, pixels, grids in (
        ("image", "pixel_values", "image_grid_thw"),
        ("video", "pixel_values_videos", "video_grid_thw"),
    ):
        sizes = [size_of((kind, *size)) for size in media(samples, kind)]
        if sizes:
            batch[grids] = torch.tensor([[t, rows * MERGE, columns * MERGE] for t, rows, columns in sizes])
            patches = int(batch[grids].prod(1).sum())
            batch[pixels] = torch.randn(patches, 3 * TEMPORAL * PATCH**2, generator=generator)
    return batch


def toy_processor(cls=Qwen2VLProcessor):
    """Images of 2 to 16 visual tokens, each of 8 x 8 pixels."""
    tokens = {
        "image_token": ("<|image_pad|>", IMAGE),
        "video_token": ("<|video_pad|>", VIDEO_PAD),
        "vision_start_token": ("<|vision_start|>", START),
        "vision_end_token": ("<|vision_end|>", END),
    }
    side = PATCH * MERGE
    images = Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        merge_size=MERGE,
        temporal_patch_size=TEMPORAL,
        min_pixels=2 * side**2,
        max_pixels=16 * side**2,
    )
    template = chat_template("<|vision_start|> <|image_pad|> <|vision_end|>")
    return images_only(cls)(images, toy_tokenizer(tokens), chat_template=template)


def kind_of(part):
    return part if isinstance(part, str) else part[0]


def size_of(part):
    """Frames, rows and columns of visual tokens."""
    size = () if isinstance(part, str) else part[1:]
    if kind_of(part) == "video":
        return size or (2, 2, 3)
    return (1, *(size or (4, 4)))
