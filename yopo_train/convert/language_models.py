"""Language models inside InternVL checkpoints: which fields and tensors become what.

All of them become a Llama or a Qwen2, whose separate projections the pruning engine slices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import LlamaConfig, Qwen2Config

from .files import ConfigSection
from .rules import Rule

COUNTS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)
OPTIONAL_COUNTS = ("num_key_value_heads", "head_dim")
OPTIONAL = (
    "hidden_act",
    "initializer_range",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
OF_ONE_KIND = ("attention_bias", "mlp_bias", "use_sliding_window", "sliding_window", "max_window_layers", "layer_types")

SOURCE = r"language_model\.model\."
TARGET = "language_model.model."
LAYER = SOURCE + r"layers\.(\d+)\."
NEW_LAYER = TARGET + r"layers.\1."


@dataclass(frozen=True)
class LanguageModel:
    """A language model's layout.

    Parameters
    ----------
    text_config : callable
        From the section ``llm_config`` to the configuration of the new model.
    rules : callable
        From the section to the rules for tensors under ``language_model.``.
    """

    text_config: Callable[[ConfigSection], Any]
    rules: Callable[[ConfigSection], list[Rule]]


def common_fields(llm: ConfigSection) -> dict[str, Any]:
    """What every decoder has under the same name."""
    counts = {name: llm.count(name) for name in (*COUNTS, *llm.pick(*OPTIONAL_COUNTS))}
    tied = bool(llm.get("tie_word_embeddings", False))  # all of these models' own configurations default to False
    return {
        **counts,
        "rms_norm_eps": llm.number("rms_norm_eps"),
        **llm.pick(*OPTIONAL),
        "tie_word_embeddings": tied,
    }


def head_rule(llm: ConfigSection, name: str) -> Rule:
    """The LM head; a tied one is stored again by some checkpoints, and not needed."""
    tied = bool(llm.get("tie_word_embeddings", False))
    return Rule(rf"language_model\.{name}\.weight", () if tied else ("language_model.lm_head.weight",))


def _unchanged_config(make: type) -> Callable[[ConfigSection], Any]:
    def text_config(llm: ConfigSection) -> Any:
        rope = {"rope_theta": llm.number("rope_theta", 10000.0), **llm.pick("rope_scaling")}
        fields = {name: value for name, value in llm.pick(*OF_ONE_KIND).items() if hasattr(make, name)}
        return llm.build(make, **common_fields(llm), **fields, **rope)

    return text_config


def _unchanged_rules(llm: ConfigSection) -> list[Rule]:
    return [
        Rule(SOURCE + r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq", ()),
        Rule(SOURCE + r"(.+)", (TARGET + r"\1",)),
        head_rule(llm, "lm_head"),
    ]


LLAMA = LanguageModel(_unchanged_config(LlamaConfig), _unchanged_rules)
QWEN2 = LanguageModel(_unchanged_config(Qwen2Config), _unchanged_rules)
