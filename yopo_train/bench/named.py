"""Models by the name that ``yopo-train bench --model`` takes: dimensions as their checkpoints' config.json has them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from transformers import (
    CLIPVisionConfig,
    InternVLConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaOnevisionConfig,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen3VLConfig,
)
from transformers import PretrainedConfig as Config

QWEN2_7B: dict[str, Any] = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}
"""The language model of LLaVA-OneVision-7B and, but for the vocabulary, of InternVL3-8B."""
QWEN2_VL_7B = QWEN2_7B | {"rope_parameters": QWEN2_7B["rope_parameters"] | {"mrope_section": [16, 24, 24]}}
"""The language model of Qwen2-VL-7B and of Qwen2.5-VL-7B."""

INTERNVIT_300M: dict[str, Any] = {"attention_bias": True}
"""24 layers of 1024, the class's own dimensions."""
INTERNVIT_6B: dict[str, Any] = {
    "hidden_size": 3200,
    "intermediate_size": 12800,
    "num_hidden_layers": 45,
    "num_attention_heads": 25,
    "norm_type": "rms_norm",
    "use_qk_norm": True,
}
INTERNLM2: dict[str, Any] = {
    "num_key_value_heads": 8,
    "vocab_size": 92553,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.0},
}
"""What the language models of InternVL2-8B and 26B have in common."""


def _llava(**text: int) -> Config:
    """LLaVA-1.5: the CLIP tower of 336 pixels and a Llama."""
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=336,
            patch_size=14,
        ),
        text_config=LlamaConfig(vocab_size=32064, max_position_embeddings=4096, **text),
        image_token_index=32000,
    )


def _llava_next() -> Config:
    """LLaVA-1.6 with Vicuna-7B: LLaVA-1.5's parts, which are the class's own dimensions."""
    return LlavaNextConfig(text_config=LlamaConfig(vocab_size=32064, max_position_embeddings=4096))


def _llava_onevision() -> Config:
    """LLaVA-OneVision-7B; its SigLIP tower has the class's own dimensions (26 layers of 1152)."""
    return LlavaOnevisionConfig(text_config={"model_type": "qwen2", **QWEN2_7B})


def _internvl3() -> Config:
    """InternVL3-8B: InternViT-300M and a Qwen2."""
    text = {"model_type": "qwen2", **QWEN2_7B, "vocab_size": 151674}
    return InternVLConfig(text_config=text, vision_config=dict(INTERNVIT_300M), tie_word_embeddings=False)


def _internvl2(vision: dict[str, Any], **text: Any) -> Config:
    """InternVL-2.0 as ``yopo-train convert internvl2`` writes it: InternLM2 and Phi-3 have become a Llama."""
    return InternVLConfig(
        text_config={"model_type": "llama", **text},
        vision_config=dict(vision),
        image_token_id=text["vocab_size"] - 1,
        tie_word_embeddings=False,
    )


def _internvl2_4b() -> Config:
    """InternVL2-4B: Phi-3-mini-128k. The factors of its long RoPE are left out: no time depends on them."""
    return _internvl2(
        INTERNVIT_300M,
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=32,
        num_attention_heads=32,
        vocab_size=32020,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "short_factor": [1.0] * 48,
            "long_factor": [1.0] * 48,
            "original_max_position_embeddings": 4096,
            "factor": 32.0,
        },
    )


def _qwen2_vl() -> Config:
    """Qwen2-VL-7B; its tower has the class's own dimensions (32 layers of 1280)."""
    return Qwen2VLConfig(text_config=dict(QWEN2_VL_7B), vision_config={"hidden_size": 3584})


def _qwen2_5_vl() -> Config:
    """Qwen2.5-VL-7B: a tower with window attention in all but four layers."""
    vision = {"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584, "tokens_per_second": 2}
    return Qwen2_5_VLConfig(text_config=dict(QWEN2_VL_7B), vision_config=vision)


def _qwen3_vl() -> Config:
    """Qwen3-VL-8B: features of three tower layers go into the first three decoder layers."""
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    text = {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "rope_parameters": rope,
    }
    return Qwen3VLConfig(text_config=text, vision_config={"out_hidden_size": 4096})


NAMED: dict[str, Callable[[], Config]] = {
    "llava-1.5-7b": _llava,
    "llava-1.5-13b": partial(
        _llava, hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40
    ),
    "llava-next-7b": _llava_next,
    "llava-onevision-7b": _llava_onevision,
    "internvl2-4b": _internvl2_4b,
    "internvl2-8b": partial(
        _internvl2,
        INTERNVIT_300M,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        **INTERNLM2,
    ),
    "internvl2-26b": partial(
        _internvl2,
        INTERNVIT_6B,
        hidden_size=6144,
        intermediate_size=16384,
        num_hidden_layers=48,
        num_attention_heads=48,
        **INTERNLM2,
    ),
    "internvl3-8b": _internvl3,
    "qwen2-vl-7b": _qwen2_vl,
    "qwen2.5-vl-7b": _qwen2_5_vl,
    "qwen3-vl-8b": _qwen3_vl,
}
"""A new one is one entry here."""
