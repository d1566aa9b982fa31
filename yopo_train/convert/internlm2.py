"""InternLM2 (InternVL-2.0 2B, 8B, 26B): a Llama whose q, k and v are one matrix, grouped by KV head.

The rows of ``wqkv`` are ``(kv_heads, heads // kv_heads + 2, head_dim)``: for each KV head its query heads, its key and
its value (``modeling_internlm2.py``: ``rearrange("b q (h gs d) -> b q h gs d", gs=2 + groups)``).
"""

from __future__ import annotations

from functools import partial

from torch import Tensor
from transformers import LlamaConfig

from .files import ConfigSection
from .language_models import LAYER, NEW_LAYER, SOURCE, TARGET, LanguageModel, common_fields, head_rule
from .rules import Rule

SAME_BUT_NAME = {
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def split_grouped(rows: Tensor, kv_heads: int, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of ``wqkv``.

    Parameters
    ----------
    rows : Tensor
        Weight ``(kv_heads * (group + 2) * head_dim, hidden)``, or bias without the second dimension.
    kv_heads, group : int
        Key/value heads, and query heads of each.

    Returns
    -------
    (Tensor, Tensor, Tensor)
        ``(kv_heads * group * head_dim, hidden)`` and twice ``(kv_heads * head_dim, hidden)``; query head h reads KV
        head ``h // group``, as in Llama.
    """
    rest = rows.shape[1:]
    grouped = rows.reshape(kv_heads, group + 2, -1, *rest)
    parts = (grouped[:, :group], grouped[:, group], grouped[:, group + 1])
    return tuple(part.reshape(-1, *rest) for part in parts)


def _text_config(llm: ConfigSection) -> LlamaConfig:
    rope = {"rope_type": "default", "rope_theta": llm.number("rope_theta", 10000.0)}
    if "rope_scaling" in llm:
        scaling = llm.section("rope_scaling")
        rope |= {"rope_type": scaling.expect("type", "dynamic", "linear"), "factor": float(scaling.number("factor"))}
    bias = bool(llm.get("bias", False))
    return llm.build(LlamaConfig, **common_fields(llm), rope_parameters=rope, attention_bias=bias)


def _rules(llm: ConfigSection) -> list[Rule]:
    heads = llm.get("num_attention_heads")
    kv_heads = llm.get("num_key_value_heads", heads)
    split = partial(split_grouped, kv_heads=kv_heads, group=heads // kv_heads)
    projections = tuple(NEW_LAYER + rf"self_attn.{name}_proj.\2" for name in "qkv")
    renamed = [
        Rule(LAYER + old.replace(".", r"\.") + r"\.(weight|bias)", (NEW_LAYER + new + r".\2",))
        for old, new in SAME_BUT_NAME.items()
    ]
    return [
        Rule(LAYER + r"attention\.wqkv\.(weight|bias)", projections, split),
        *renamed,
        Rule(LAYER + r"attention\.rotary_emb\.inv_freq", ()),
        Rule(SOURCE + r"tok_embeddings\.weight", (TARGET + "embed_tokens.weight",)),
        Rule(SOURCE + r"norm\.weight", (TARGET + "norm.weight",)),
        head_rule(llm, "output"),
    ]


INTERNLM2 = LanguageModel(_text_config, _rules)
