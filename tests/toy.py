"""Tiny random models of the real classes, and random batches for them."""

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
)

from yopo_train.models import family_of
from yopo_train.plan import ModelDims, PruningPlan

IMAGE_TOKEN = 98
PAD_TOKEN = 0
SIDE = 4  # 4 x 4 visual tokens an image
VISUAL = SIDE * SIDE


def toy_llava(
    kv_heads: int = 4,
    layers: int = 4,
    seed: int = 0,
    tower: type = CLIPVisionConfig,
    vision_layers: int = 2,
    side: int = SIDE,
    **config,
) -> LlavaForConditionalGeneration:
    """A LLaVA of 4 layers and 4 heads with weights large enough that every mechanism changes the output."""
    torch.manual_seed(seed)
    if tower is SiglipVisionConfig:  # no class token
        config = {"vision_feature_select_strategy": "full", **config}
    config = LlavaConfig(
        vision_config=tower(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=vision_layers,
            num_attention_heads=2,
            image_size=4 * side,
            patch_size=4,
        ),
        text_config=LlamaConfig(
            hidden_size=48,
            intermediate_size=56,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=kv_heads,
            vocab_size=99,
            pad_token_id=PAD_TOKEN,
            bos_token_id=1,
            eos_token_id=2,
        ),
        image_token_index=IMAGE_TOKEN,
        **config,
    )
    model = LlavaForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return model


def toy_dims(model) -> ModelDims:
    return family_of(model).dims(model.config)


def random_plan(
    dims: ModelDims, depth: int, radius: int | None, seed: int = 0, heads: float = 0.5, channels: float = 0.5
) -> PruningPlan:
    """Random masks; shares 0 and 1 give layers without any, and with all heads or channels."""
    generator = torch.Generator().manual_seed(seed)
    head_mask = torch.rand(dims.layers, dims.heads, generator=generator) < heads
    channel_mask = torch.rand(dims.layers, dims.intermediate, generator=generator) < channels
    head_mask[depth:], channel_mask[depth:] = False, False
    return PruningPlan(dims, head_mask, channel_mask, radius, depth)


def toy_batch(samples: list[list[int | str]], padding: str = "left", seed: int = 0) -> dict[str, torch.Tensor]:
    """Model inputs from samples such as ``[5, "image", 3]``: five text tokens, an image, three text tokens."""
    generator = torch.Generator().manual_seed(seed)
    rows, images = [], 0
    for sample in samples:
        row = []
        for part in sample:
            if part == "image":
                row += [IMAGE_TOKEN] * VISUAL
                images += 1
            else:
                row += torch.randint(3, IMAGE_TOKEN, (part,), generator=generator).tolist()
        rows.append(row)
    longest = max(map(len, rows))
    pads = [[PAD_TOKEN] * (longest - len(row)) for row in rows]
    join = (lambda row, pad: pad + row) if padding == "left" else (lambda row, pad: row + pad)
    ones = [join([1] * len(row), [0] * len(pad)) for row, pad in zip(rows, pads, strict=True)]
    batch = {
        "input_ids": torch.tensor([join(row, pad) for row, pad in zip(rows, pads, strict=True)]),
        "attention_mask": torch.tensor(ones),
    }
    if images:
        batch["pixel_values"] = torch.randn(images, 3, 4 * SIDE, 4 * SIDE, generator=generator)
    return batch


def text_positions(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Where logits mean something under every plan: bool ``(batch, tokens)``."""
    return batch["attention_mask"].bool() & (batch["input_ids"] != IMAGE_TOKEN)


def text_logits(model, batch, **kwargs) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch, **kwargs).logits[text_positions(batch)]
