"""Which optimizer updates which weight, and the learning rate over the steps."""

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from yopo_train.errors import UserError
from yopo_train.recovery.options import OptimizerOptions

_NOT_HIDDEN = ("embed", "lm_head")  # Muon is made for the matrices between embeddings and head


class ChainedOptimizer(Optimizer):
    """Several optimizers, each with weights of its own, that step as one.

    Lightning accumulates, clips and resumes by itself for a single optimizer only. The parts work on the parameter
    groups and the state of this one, so a schedule and a checkpoint reach them all.
    """

    def __init__(self, *parts: Optimizer) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts
        self._share()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Raises a ``UserError`` once the parts are there: none of them would update the new weights."""
        if hasattr(self, "parts"):
            raise UserError("weights cannot be added to optimizer.name muon in a fit, expected optimizer.name adamw")
        super().add_param_group(param_group)

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One update of every weight that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = list(islice(groups, len(part.param_groups)))
            part.state = self.state


def make_optimizer(weights: Mapping[str, nn.Parameter], options: OptimizerOptions) -> Optimizer:
    """The optimizer of a fit.

    Muon (https://kellerjordan.github.io/posts/muon/) makes each update of a matrix orthogonal: directions that few
    samples ask for are learned as fast as the rest. Its steps are scaled to the size of AdamW's (arXiv 2502.16982), so
    that one learning rate serves both.

    Parameters
    ----------
    weights
        What is trained, by name. Vectors are not decayed. Embeddings, the LM head and whatever is no matrix are AdamW's
        in either case.
    options
        Which one, and its numbers.
    """
    hidden = {} if options.name == "adamw" else {name: w for name, w in weights.items() if _is_hidden(name, w)}
    parts: list[Optimizer] = []
    if hidden:
        groups = _groups(hidden.values(), options)
        parts.append(Muon(groups, lr=options.lr * options.muon_lr_ratio, adjust_lr_fn="match_rms_adamw"))
    rest = _groups((weight for name, weight in weights.items() if name not in hidden), options)
    if rest:
        parts.append(_adamw(rest, options))
    return parts[0] if len(parts) == 1 else ChainedOptimizer(*parts)


def _adamw(groups: list[dict[str, Any]], options: OptimizerOptions) -> AdamW:
    """One kernel a step where the weights are on a GPU."""
    fused = all(weight.is_cuda for group in groups for weight in group["params"])
    optimizer = AdamW(groups, lr=options.lr, betas=tuple(options.betas), fused=fused or None)
    # it could undo fp16's loss scale in its kernel; then nobody could clip gradients before (Lightning refuses to)
    optimizer._step_supports_amp_scaling = False
    return optimizer


def lr_factor(step: int, steps: int, options: OptimizerOptions) -> float:
    """Share of the highest learning rate at an optimizer step, counted from 0: linear warm-up, then cosine."""
    warmup = math.ceil(options.warmup_ratio * steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return options.min_lr_ratio + (1 - options.min_lr_ratio) * (1 + math.cos(math.pi * progress)) / 2


def _is_hidden(name: str, weight: Tensor) -> bool:
    return weight.dim() == 2 and not any(part in name for part in _NOT_HIDDEN)


def _groups(weights: Iterable[nn.Parameter], options: OptimizerOptions) -> list[dict[str, Any]]:
    weights = list(weights)
    groups = [
        {"params": [w for w in weights if w.dim() >= 2], "weight_decay": options.weight_decay},
        {"params": [w for w in weights if w.dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
