"""Self-distillation: the pruned model learns to answer as it would answer unpruned.

The teacher is the same weights with the plan switched off and the adapter disabled, without gradients. No second model
is loaded; a step costs one more forward pass, a dense one.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yopo_train.models.modes import evaluating
from yopo_train.pruning import dense_mode
from yopo_train.pruning.inputs import IGNORE
from yopo_train.recovery.loss import TokenSums, answer_logits, cross_entropy
from yopo_train.recovery.options import DistillationOptions


@contextmanager
def teacher(model: nn.Module) -> Iterator[nn.Module]:
    """Within this context the model is its own teacher: no plan, no adapter, no dropout, no gradients."""
    without_adapter = model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()
    with torch.no_grad(), dense_mode(model), evaluating(model), without_adapter:
        yield model


@dataclass
class Distillation:
    """The loss of a batch, part divergence from the teacher's answer tokens, part cross-entropy on the labels.

        loss = (1 - weight) * cross-entropy + weight * T^2 * KL(teacher || student), both at temperature T in the KL

    (arXiv 1503.02531, section 2: T^2 keeps the size of the KL's gradient). Both are sums over the labelled tokens; the
    labels themselves only say which tokens those are where ``weight`` is 1.
    """

    options: DistillationOptions
    weight: float

    def __call__(self, model: nn.Module, batch: Mapping[str, Any]) -> TokenSums:
        """See `loss.cross_entropy` for the batch, and for what is refused."""
        logits, labels = _labelled(*answer_logits(model, batch))
        with teacher(model):  # the student first: FSDP2 takes from a weight's first use whether it is trained
            known = _Known.of(_labelled(*answer_logits(model, batch))[0], self.options)
        divergence, tokens = known.divergence(logits), torch.tensor(len(labels), device=labels.device)
        if self.weight == 1.0:
            return TokenSums(divergence, tokens)
        entropy = F.cross_entropy(logits.float(), labels, reduction="sum")
        total = (1 - self.weight) * entropy + self.weight * divergence
        return TokenSums(total, tokens, {"ce": entropy.detach(), "kd": divergence.detach()})


def _labelled(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """``(tokens, vocabulary)`` and ``(tokens,)``: the labelled tokens alone."""
    chosen = targets != IGNORE
    return logits[chosen], targets[chosen]


@dataclass
class _Known:
    """What is kept of the teacher: log-probabilities, float32 ``(tokens, kept)``, at the temperature.

    With ``top_k`` those of its k likeliest tokens, ``index`` saying which, and behind them the log of the sum of all
    others: the divergence is then that of k + 1 outcomes, and never more than the full one.
    """

    logs: Tensor
    index: Tensor | None
    temperature: float

    @classmethod
    def of(cls, logits: Tensor, options: DistillationOptions) -> "_Known":
        logs = (logits.float() / options.temperature).log_softmax(dim=-1)
        if options.top_k is None or options.top_k >= logs.shape[-1]:
            return cls(logs, None, options.temperature)
        index = logs.topk(options.top_k, dim=-1).indices
        return cls(_coarse(logs, index), index, options.temperature)

    def divergence(self, logits: Tensor) -> Tensor:
        """T^2 KL(teacher || student), summed over the tokens."""
        student = (logits.float() / self.temperature).log_softmax(dim=-1)
        if self.index is not None:
            student = _coarse(student, self.index)
        return F.kl_div(student, self.logs, reduction="sum", log_target=True) * self.temperature**2


def _coarse(logs: Tensor, index: Tensor) -> Tensor:
    """Log-probabilities of the indexed tokens and of all others together: ``(tokens, k + 1)``."""
    rest = logs.scatter(-1, index, -torch.inf).logsumexp(dim=-1, keepdim=True)
    return torch.cat((logs.gather(-1, index), rest), dim=-1)


def make_loss(name: str, options: DistillationOptions) -> Callable[[nn.Module, Mapping[str, Any]], TokenSums]:
    """The loss that ``model.loss`` names: ce, kd or ce+kd."""
    if name == "ce":
        return cross_entropy
    return Distillation(options, 1.0 if name == "kd" else options.weight)
