"""LLaVA-OneVision: a Qwen2 (biases in q/k/v), SigLIP, tiles shrunk to two tiles' tokens, videos.

``("image", height, width)`` is an image of so many pixels; it is tiled where it is alone in its sample. Of
``("video", frames)`` all in a batch have the same number of frames.
"""

import torch
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
)
from transformers.models.llava_onevision.modeling_llava_onevision import image_size_to_num_patches

from yopo_train.models.processors import images_only

from .common import large, media, prompts, text_config
from .llava_next import DEFAULT_SIZE, PINPOINTS, TILE, VISION, feature_lengths, images_of
from .processing import chat_template, toy_tokenizer

VIDEO = True
TWO_IMAGES = (("image", 11, 40), "image")
VIDEO_SAMPLES = [[3, ("video", 2), 2], [2, "image", 1, ("video", 2), 4]]
IMAGE, VIDEO_PAD = 90, 91
POOLED = 4  # 3 x 3 patches a frame, pooled to 2 x 2
LIMIT = "anyres_max_2"


def toy(seed=0, **text):
    torch.manual_seed(seed)
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **text_config(**text)},
        vision_config={
            "model_type": "siglip_vision_model",
            "num_hidden_layers": 2,
            "vision_use_head": False,
            **VISION,
        },
        image_token_index=IMAGE,
        video_token_index=VIDEO_PAD,
        image_grid_pinpoints=PINPOINTS,
        vision_aspect_ratio=LIMIT,
    )
    return large(LlavaOnevisionForConditionalGeneration(config))


def toy_inputs(model, samples, padding="left", seed=0):
    generator = torch.Generator().manual_seed(seed)
    counts = [len(media([sample], "image")) for sample in samples]
    alone = [count == 1 for count in counts for _ in range(count)]
    sizes = [size or DEFAULT_SIZE for size in media(samples, "image")]
    tiles = [
        image_size_to_num_patches(size, PINPOINTS, TILE) if tiled else 1
        for size, tiled in zip(sizes, alone, strict=True)
    ]
    images = images_of(tiles, sizes, generator)
    if images:
        images["batch_num_images"] = torch.tensor([count for count in counts if count])
    lengths = iter(feature_lengths(model, images))

    def visual_ids(part, _):
        kind, *size = (part,) if isinstance(part, str) else part
        return [IMAGE] * next(lengths) if kind == "image" else [VIDEO_PAD] * (_frames(size) * POOLED + 1)

    batch = {**prompts(samples, visual_ids, padding, generator), **images}
    frames = [_frames(size) for size in media(samples, "video")]
    if frames:
        batch["pixel_values_videos"] = torch.randn(len(frames), frames[0], 3, TILE, TILE, generator=generator)
    return batch


def _frames(size):
    return size[0] if size else 2


def toy_processor():
    return images_only(LlavaOnevisionProcessor)(
        LlavaOnevisionImageProcessorPil(size={"height": TILE, "width": TILE}, image_grid_pinpoints=PINPOINTS),
        toy_tokenizer({"image_token": ("<image>", IMAGE), "video_token": ("<video>", VIDEO_PAD)}),
        num_image_tokens=9,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=LIMIT,
        chat_template=chat_template("<image>"),
    )
