"""LLaVA-NeXT: a Llama, a thumbnail of 3 x 3 visual tokens and up to 2 x 2 tiles with a newline behind each row.

``("image", height, width)`` is an image of so many pixels.
"""

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
)
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from .common import large, media, prompts, text_config
from .processing import chat_template, toy_tokenizer

VIDEO = False
IMAGE, TILE = 90, 12
PINPOINTS = [[TILE, 2 * TILE], [2 * TILE, TILE], [2 * TILE, 2 * TILE]]
TWO_IMAGES = (("image", 11, 40), "image")
DEFAULT_SIZE = (20, 15)  # 24 x 24 pixels of tiles, of which the side columns are padding
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "image_size": TILE, "patch_size": 4}


def toy(seed=0, **text):
    torch.manual_seed(seed)
    config = LlavaNextConfig(
        text_config={"model_type": "llama", **text_config(**text)},
        vision_config={"model_type": "clip_vision_model", "num_hidden_layers": 3, **VISION},
        image_token_index=IMAGE,
        image_grid_pinpoints=PINPOINTS,
    )
    return large(LlavaNextForConditionalGeneration(config))


def toy_inputs(model, samples, padding="left", seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = [size or DEFAULT_SIZE for size in media(samples, "image")]
    images = images_of([image_size_to_num_patches(size, PINPOINTS, TILE) for size in sizes], sizes, generator)
    lengths = iter(feature_lengths(model, images))
    return {**prompts(samples, lambda part, _: [IMAGE] * next(lengths), padding, generator), **images}


def images_of(tiles, sizes, generator):
    """``pixel_values``, padded to the most tiles, and ``image_sizes``."""
    if not sizes:
        return {}
    pixels = [torch.randn(count, 3, TILE, TILE, generator=generator) for count in tiles]
    return {"pixel_values": pad_sequence(pixels, batch_first=True), "image_sizes": torch.tensor(sizes)}


def feature_lengths(model, images):
    """Tokens of each image, as the model itself counts them."""
    if not images:
        return []
    with torch.no_grad():
        return [len(features) for features in model.model.get_image_features(**images).pooler_output]


def toy_processor():
    return LlavaNextProcessor(
        LlavaNextImageProcessorPil(
            size={"shortest_edge": TILE},
            crop_size={"height": TILE, "width": TILE},
            image_grid_pinpoints=PINPOINTS,
        ),
        toy_tokenizer({"image_token": ("<image>", IMAGE)}),
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template("<image>"),
    )
