"""What a configuration says about the adapter: the section ``model.lora``."""

import re
from dataclasses import dataclass, field
from typing import Literal

from yopo_train.recovery.options import require


@dataclass
class LoraOptions:
    """The LoRA adapter, by peft's own names.

    Parameters
    ----------
    r
        Rank.
    lora_alpha
        The update is scaled by lora_alpha / r (by lora_alpha / sqrt(r) with use_rslora).
    lora_dropout
        Dropout in front of the adapter, in [0, 1).
    target_modules
        null: every linear layer of the language model. A list, like [q_proj, v_proj]: the layers of these names, in the
        language model only. A text: a regular expression that has to match whole module names, used as it is.
    projector
        Also the linear layers between vision tower and language model.
    exclude_modules
        Names, or a regular expression, of layers to leave out.
    layers_to_transform
        Numbers of the decoder layers that get the adapter; null is all of them.
    rank_pattern, alpha_pattern
        Other values of r and lora_alpha for layers whose name matches a regular expression.
    use_rslora
        Rank-stabilised scaling.
    use_dora
        Train the size of each weight's columns beside their direction (DoRA). Under a plan these layers are computed
        whole: right, but slower.
    init_lora_weights
        true: the update starts at zero. gaussian: so too, with a normal distribution in A. orthogonal: with orthogonal
        A and B. mica: B is frozen at directions in which the weight is smallest. pissa, olora: from the weight's
        largest singular values, or its QR decomposition, taken off the weight. false: at random, for tests.
    bias
        none. lora_only: train the biases of the layers with an adapter. all: every bias of the model.
    lora_bias
        A bias in B.
    modules_to_save
        Names of modules outside of the decoder layers' attention and FFN to train whole and save with the adapter, like
        [multi_modal_projector] or [embed_tokens, lm_head].
    trainable_token_indices
        Ids of tokens whose embeddings are trained and saved with the adapter.
    ensure_weight_tying
        Where embeddings and LM head are one weight, keep them one in modules_to_save.
    """

    r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    target_modules: list[str] | str | None = None
    projector: bool = False
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, int] = field(default_factory=dict)
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: bool | Literal["gaussian", "orthogonal", "mica", "pissa", "olora"] = True
    bias: Literal["none", "lora_only", "all"] = "none"
    lora_bias: bool = False
    modules_to_save: list[str] | None = None
    trainable_token_indices: list[int] | None = None
    ensure_weight_tying: bool = False

    def __post_init__(self) -> None:
        require("lora.r", self.r, self.r >= 1, "an integer >= 1")
        require("lora.lora_alpha", self.lora_alpha, self.lora_alpha >= 1, "an integer >= 1")
        require("lora.lora_dropout", self.lora_dropout, 0 <= self.lora_dropout < 1, "a number in [0, 1)")
        require("lora.target_modules", self.target_modules, self.target_modules not in ([], ""), "names, or null")
        for name in ("rank_pattern", "alpha_pattern"):
            for pattern, value in getattr(self, name).items():
                require(f"lora.{name}", {pattern: value}, value >= 1, "integers >= 1")
                good = _is_expression(rf"(.*\.)?({pattern})$")  # as peft asks it
                require(f"lora.{name}", repr(pattern), good, "regular expressions of layer names")
        if isinstance(self.exclude_modules, str):
            good = _is_expression(self.exclude_modules)
            require("lora.exclude_modules", repr(self.exclude_modules), good, "a regular expression, or names")
        if isinstance(self.target_modules, str):  # says everything itself
            require("lora.layers_to_transform", self.layers_to_transform, self.layers_to_transform is None,
                     "null beside a regular expression in target_modules")  # fmt: skip
            require("lora.projector", self.projector, not self.projector,
                     "false beside a regular expression in target_modules")  # fmt: skip
        good = self.layers_to_transform is None or (self.layers_to_transform and min(self.layers_to_transform) >= 0)
        require("lora.layers_to_transform", self.layers_to_transform, good, "numbers of layers from 0, or null")
        for name in ("modules_to_save", "trainable_token_indices"):
            require(f"lora.{name}", [], getattr(self, name) != [], "names, or null")
        tokens = self.trainable_token_indices or [0]
        require("lora.trainable_token_indices", tokens, min(tokens) >= 0, "ids of tokens, from 0")
        if self.init_lora_weights == "orthogonal":
            even = all(rank % 2 == 0 for rank in (self.r, *self.rank_pattern.values()))
            require("lora.init_lora_weights", "orthogonal", even, "another one where r is odd")

    @property
    def depends_on_weights(self) -> bool:
        """Whether the adapter's first weights, or its layers, are made from the base's: in the base model's order."""
        return self.use_dora or self.init_lora_weights in ("mica", *CHANGES_BASE)

    @property
    def changes_base(self) -> str | None:
        """The option with which a disabled adapter does not leave the base model behind, or None."""
        if self.bias != "none":
            return f"model.lora.bias {self.bias}"
        return (
            f"model.lora.init_lora_weights {self.init_lora_weights}" if self.init_lora_weights in CHANGES_BASE else None
        )


CHANGES_BASE = ("pissa", "olora")
"""Ways to begin that take the adapter's first product off the base weights."""

REFUSED = {
    "alora_invocation_tokens": "activated LoRA looks for its trigger in whole sequences, which no pruned layer sees",
    "layer_replication": "a plan is made for the base model's own layers",
    "layers_pattern": "layers_to_transform finds the decoder layers by itself",
    "fan_in_fan_out": "no supported family has layers with transposed weights",
    "megatron_config": "the models are those of transformers",
    "megatron_core": "the models are those of transformers",
    "target_parameters": "no supported family keeps weights outside of linear layers",
    "loftq_config": "loftq needs the unquantized weights beside the quantized ones",
    "eva_config": "it needs a pass over the data before training",
    "corda_config": "it needs a pass over the data before training",
    "lora_ga_config": "it needs a pass over the data before training",
    "kasa_config": "it changes the base model's weights for good",
    "monteclora_config": "it needs a loss of its own",
    "use_bdlora": "it shapes the adapter for one way of serving",
    "arrow_config": "it mixes adapters that are trained already",
    "use_qalora": "it is made for GPTQ weights",
    "qalora_group_size": "it is made for GPTQ weights",
    "velora_config": "it saves the memory that model.gradient_checkpointing saves",
    "runtime_config": "it says how a layer is loaded, not what is trained",
}
"""What peft's LoraConfig also has, and why ``model.lora`` has it not."""


def _is_expression(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True
