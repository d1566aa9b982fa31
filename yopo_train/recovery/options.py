"""What a configuration says about recovery: the sections ``model.optimizer`` and ``model.distillation``."""

from dataclasses import dataclass
from typing import Literal

from yopo_train.errors import UserError


@dataclass
class DistillationOptions:
    """How the teacher is followed, with model.loss kd or ce+kd.

    Parameters
    ----------
    weight
        Share of the teacher in ce+kd, in (0, 1); cross-entropy on the labels has the rest.
    temperature
        Both distributions are softened by it.
    top_k
        Keep only so many of the teacher's likeliest tokens, and the sum of all others, at each position: less memory
        with a large vocabulary. null keeps all.
    answer_tokens
        Longest answer that the teacher gives to a training question that has none.
    """

    weight: float = 0.5
    temperature: float = 1.0
    top_k: int | None = None
    answer_tokens: int = 128

    def __post_init__(self) -> None:
        require("distillation.weight", self.weight, 0 < self.weight < 1, "a share in (0, 1)")
        require("distillation.temperature", self.temperature, self.temperature > 0, "a number > 0")
        require("distillation.top_k", self.top_k, self.top_k is None or self.top_k >= 1, "a number >= 1, or null")
        require("distillation.answer_tokens", self.answer_tokens, self.answer_tokens >= 1, "a number >= 1")


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
        require("optimizer.lr", self.lr, self.lr > 0, "a number > 0")
        require("optimizer.muon_lr_ratio", self.muon_lr_ratio, self.muon_lr_ratio > 0, "a number > 0")
        require("optimizer.weight_decay", self.weight_decay, self.weight_decay >= 0, "a number >= 0")
        require("optimizer.betas", list(self.betas), all(0 <= b < 1 for b in self.betas), "two numbers in [0, 1)")
        require("optimizer.warmup_ratio", self.warmup_ratio, 0 <= self.warmup_ratio <= 1, "a share in [0, 1]")
        require("optimizer.min_lr_ratio", self.min_lr_ratio, 0 <= self.min_lr_ratio <= 1, "a share in [0, 1]")
        steps = self.schedule_steps
        require("optimizer.schedule_steps", steps, steps is None or steps > 0, "a number of steps > 0, or null")


def require(name: str, value: object, good: bool, expected: str) -> None:
    """Raise a ``UserError`` that names an option of the section ``model``, unless its value is good."""
    if not good:
        raise UserError(f"model.{name} is {value}, expected {expected}")
