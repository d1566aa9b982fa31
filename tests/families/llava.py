"""LLaVA-1.5: a Llama, 4 x 4 visual tokens an image."""

from toy import IMAGE_TOKEN, SIDE, toy_batch, toy_llava
from transformers import CLIPImageProcessorPil, LlavaProcessor

from .processing import chat_template, toy_tokenizer

VIDEO = False


def toy(seed=0, **text):
    return toy_llava(kv_heads=text.pop("num_key_value_heads", 2), layers=text.pop("num_hidden_layers", 4), seed=seed)


def toy_inputs(model, samples, padding="left", seed=0):
    return toy_batch(samples, padding, seed)


def toy_processor():
    return LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 4 * SIDE}, crop_size={"height": 4 * SIDE, "width": 4 * SIDE}),
        toy_tokenizer({"image_token": ("<image>", IMAGE_TOKEN)}),
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template("<image>"),
    )
