"""What a configuration file says about recovery: the sections ``model.lora`` and ``model.optimizer``."""

import re
from dataclasses import dataclass, field
from typing import Literal

from yopo_train.errors import UserError


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
    exclude_modules
        Names, or a regular expression, of layers to leave out.
    rank_pattern, alpha_pattern
        Other values of r and lora_alpha for layers whose name matches a regular expression.
    use_rslora
        Rank-stabilised scaling.
    init_lora_weights
        true: the update starts at zero. gaussian: so too, with a normal distribution in A.
    """

    r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, int] = field(default_factory=dict)
    use_rslora: bool = False
    init_lora_weights: bool | Literal["gaussian"] = True

    def __post_init__(self) -> None:
        _require("lora.r", self.r, self.r >= 1, "an integer >= 1")
        _require("lora.lora_alpha", self.lora_alpha, self.lora_alpha >= 1, "an integer >= 1")
        _require("lora.lora_dropout", self.lora_dropout, 0 <= self.lora_dropout < 1, "a number in [0, 1)")
        _require("lora.target_modules", self.target_modules, self.target_modules not in ([], ""), "names, or null")
        for name in ("rank_pattern", "alpha_pattern"):
            for pattern in getattr(self, name):
                good = _is_expression(rf"(.*\.)?({pattern})$")  # as peft asks it
                _require(f"lora.{name}", repr(pattern), good, "regular expressions of layer names")
        if isinstance(self.exclude_modules, str):
            good = _is_expression(self.exclude_modules)
            _require("lora.exclude_modules", repr(self.exclude_modules), good, "a regular expression, or names")


@dataclass
class OptimizerOptions:
    """AdamW, or Muon beside it, with linear warm-up and cosine decay.

    Parameters
    ----------
    name
        adamw. muon: hidden matrices by Muon, everything else by AdamW; made for training from scratch.
    lr
        Highest learning rate.
    muon_lr_ratio
        Muon's learning rate over AdamW's. Its updates are scaled to the size of AdamW's, so 1 is a good start.
    weight_decay
        Of matrices; biases, norms and other vectors are not decayed.
    betas
        Of AdamW.
    warmup_ratio
        Share of all steps in which the learning rate rises from zero.
    min_lr_ratio
        The cosine ends at this share of lr.
    schedule_steps
        Length of the schedule in steps; null is the length of the fit. A fit that ends earlier leaves the rest of the
        cosine to another one.
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = 2e-4
    muon_lr_ratio: float = 1.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_ratio: float = 0.03
    min_lr_ratio: float = 0.0
    schedule_steps: int | None = None

    def __post_init__(self) -> None:
        _require("optimizer.lr", self.lr, self.lr > 0, "a number > 0")
        _require("optimizer.muon_lr_ratio", self.muon_lr_ratio, self.muon_lr_ratio > 0, "a number > 0")
        _require("optimizer.weight_decay", self.weight_decay, self.weight_decay >= 0, "a number >= 0")
        _require("optimizer.betas", list(self.betas), all(0 <= b < 1 for b in self.betas), "two numbers in [0, 1)")
        _require("optimizer.warmup_ratio", self.warmup_ratio, 0 <= self.warmup_ratio <= 1, "a share in [0, 1]")
        _require("optimizer.min_lr_ratio", self.min_lr_ratio, 0 <= self.min_lr_ratio <= 1, "a share in [0, 1]")
        steps = self.schedule_steps
        _require("optimizer.schedule_steps", steps, steps is None or steps > 0, "a number of steps > 0, or null")


def _is_expression(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _require(name: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise UserError(f"model.{name} is {value}, expected {expected}")
