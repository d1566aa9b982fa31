"""Phi-3 (InternVL-2.0 4B): a Llama with fused projections and long RoPE.

``qkv_proj`` has the rows of all queries, then keys, then values; ``gate_up_proj`` those of the gate, then up
(``modeling_phi3.py``). Its rotary embedding divides the frequencies by ``short_factor`` or, beyond
``original_max_position_embeddings``, by ``long_factor``, and scales cos and sin by
``sqrt(1 + ln(s) / ln(original_max_position_embeddings))`` with ``s = max_position_embeddings /
original_max_position_embeddings`` (LongRoPE, arXiv 2402.13753): ``transformers`` computes the same for a Llama of the
type "longrope".
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from torch import Tensor
from transformers import LlamaConfig

from ..errors import UserError
from .files import ConfigSection
from .language_models import LAYER, LLAMA, NEW_LAYER, LanguageModel, common_fields
from .rules import Rule


def split_rows(rows: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Consecutive blocks of ``sizes`` rows."""
    return rows.split(sizes, dim=0)


def _text_config(llm: ConfigSection) -> LlamaConfig:
    positions = llm.count("max_position_embeddings")
    window = llm.number("sliding_window", positions)
    if window < positions:
        raise UserError(
            f"{llm.where}sliding_window is {window}, less than max_position_embeddings ({positions}): a model with "
            "sliding-window attention has no Llama that computes the same"
        )
    return llm.build(LlamaConfig, **common_fields(llm), rope_parameters=_rope(llm, positions))


def _rope(llm: ConfigSection, positions: int) -> dict[str, Any]:
    theta = llm.number("rope_theta", 10000.0)
    if "rope_scaling" not in llm:
        return {"rope_type": "default", "rope_theta": theta}
    scaling = llm.section("rope_scaling")
    scaling.expect("type", "su", "longrope")  # one thing under two names
    original = llm.count("original_max_position_embeddings")
    if original == 1:
        raise UserError(f"{llm.where}original_max_position_embeddings is 1, expected 2 or more")
    pairs = llm.count("hidden_size") // llm.count("num_attention_heads") // 2
    factor = max(positions / original, 1.0)
    return {
        "rope_type": "longrope",
        "rope_theta": theta,
        "short_factor": _factors(scaling, "short_factor", pairs),
        "long_factor": _factors(scaling, "long_factor", pairs),
        "original_max_position_embeddings": original,
        "factor": factor,
        "attention_factor": math.sqrt(1 + math.log(factor) / math.log(original)),
    }


def _factors(scaling: ConfigSection, name: str, pairs: int) -> list[float]:
    """What the frequencies are divided by, one number for each pair of a head's dimensions."""
    factors = scaling.get(name)
    if not isinstance(factors, list) or len(factors) != pairs or not all(type(f) in (int, float) for f in factors):
        raise UserError(f"{scaling.where}{name} is no list of {pairs} numbers, half of a head's dimensions")
    return factors


def _rules(llm: ConfigSection) -> list[Rule]:
    heads, width = llm.get("num_attention_heads"), llm.get("intermediate_size")
    head_dim = llm.get("hidden_size") // heads
    keys = llm.get("num_key_value_heads", heads) * head_dim
    blocks = partial(split_rows, sizes=(heads * head_dim, keys, keys))
    attention = tuple(NEW_LAYER + f"self_attn.{name}_proj.weight" for name in "qkv")
    ffn = tuple(NEW_LAYER + f"mlp.{name}_proj.weight" for name in ("gate", "up"))
    return [
        Rule(LAYER + r"self_attn\.qkv_proj\.weight", attention, blocks),
        Rule(LAYER + r"mlp\.gate_up_proj\.weight", ffn, partial(split_rows, sizes=(width, width))),
        *LLAMA.rules(llm),
    ]


PHI3 = LanguageModel(_text_config, _rules)
