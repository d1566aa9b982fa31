"""InternVL: a Qwen2 (biases in q/k/v), tiles of 3 x 3 visual tokens and a thumbnail, ``[start, placeholders, end]``.

``("image", rows, columns)`` is an image of so many tiles.
"""

import math

import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLProcessor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from yopo_train.models.processors import images_only

from .common import large, media, prompts, text_config
from .processing import chat_template, toy_tokenizer

VIDEO = False  # frames are tiles, under the image's placeholder
TWO_IMAGES = (("image", 1, 1), "image")
IMAGE, START, END = 90, 92, 93
SIDE, TILE = 3, 24
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def toy(seed=0, text_type="qwen2", vision_feature_layer=-1, **text):
    text = {"model_type": text_type, **text_config(**text)}
    vision = {"image_size": [TILE, TILE], "patch_size": [4, 4], **VISION}
    return toy_of(text, vision, seed, vision_feature_layer=vision_feature_layer)


def toy_of(text, vision, seed, **fields):
    """A model of the given parts' configurations."""
    torch.manual_seed(seed)
    config = InternVLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE,
        image_seq_length=SIDE**2,
        tie_word_embeddings=False,
        **fields,
    )
    return large(InternVLForConditionalGeneration(config))


def toy_inputs(model, samples, padding="left", seed=0):
    generator = torch.Generator().manual_seed(seed)

    def visual_ids(part, _):
        return [START, *[IMAGE] * (_tiles(part[1:] if isinstance(part, tuple) else ()) * SIDE**2), END]

    batch = prompts(samples, visual_ids, padding, generator)
    tiles = sum(_tiles(size) for size in media(samples, "image"))
    if tiles:
        batch["pixel_values"] = torch.randn(tiles, 3, TILE, TILE, generator=generator)
    return batch


def _tiles(size):
    """Tiles of an image and its thumbnail, which a lone tile does not have."""
    tiles = math.prod(size or (1, 2))
    return tiles + (tiles > 1)


def toy_processor():
    tokens = {
        "context_image_token": ("<IMG_CONTEXT>", IMAGE),
        "video_token": ("<video>", 91),
        "start_image_token": ("<img>", START),
        "end_image_token": ("</img>", END),
    }
    return images_only(InternVLProcessor)(
        GotOcr2ImageProcessorPil(size={"height": TILE, "width": TILE}, max_patches=6),
        toy_tokenizer(tokens),
        image_seq_length=SIDE**2,
        chat_template=chat_template("<IMG_CONTEXT>"),
    )
