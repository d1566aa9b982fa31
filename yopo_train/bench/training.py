"""The LoRA training step that bench times: forward, loss on the last text tokens, backward, AdamW."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..models.prompt import visual_mask
from ..pruning import unprune
from ..recovery.adapter import attach_lora
from ..recovery.lora_options import LoraOptions
from ..recovery.loss import IGNORE, answer_loss
from .timer import Stopwatch


class LoraStep:
    """A training step of a model with an adapter.

    Parameters
    ----------
    model : nn.Module
        With a trainable adapter, in training mode.
    inputs : dict
        Model inputs; see `answer_labels` for the labels.
    """

    def __init__(self, model: nn.Module, inputs: dict[str, Tensor]) -> None:
        self.model, self.batch = model, {**inputs, "labels": answer_labels(model, inputs)}
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]

    def prepare(self, switch: Callable[[nn.Module], nn.Module]) -> None:
        """Put a contender's plan on. The weights are reordered by it, an optimizer's state is not: it starts anew."""
        switch(self.model)
        self.optimizer = torch.optim.AdamW(self.weights, lr=1e-6)

    def backward(self) -> None:
        """Gradients of the loss."""
        answer_loss(self.model, self.batch).backward()

    def step(self) -> None:
        """All of it."""
        self.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def measure(self, watch: Stopwatch) -> None:
        """The lap ``train``."""
        watch.start()
        self.step()
        watch.lap("train")


@contextmanager
def lora_step(model: nn.Module, inputs: dict[str, Tensor]) -> Iterator[LoraStep]:
    """A `LoraStep` on a model in eval mode; the adapter is gone afterwards, and the model's weights are frozen."""
    tuned = attach_lora(model, LoraOptions())
    try:
        yield LoraStep(tuned.train(), inputs)
    finally:
        unprune(tuned).unload()
        model.eval()


def answer_labels(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Labels on the last quarter of the text behind the image, -100 elsewhere.

    Raises
    ------
    UserError
        Fewer than two tokens there: a visual token would have to predict the first.
    """
    ids, columns = inputs["input_ids"], visual_mask(model, inputs).any(dim=0).nonzero()
    behind = ids.shape[1] - 1 - int(columns.max())
    if behind < 2:
        raise UserError(f"--train needs text behind the image, found {behind} tokens of it, expected 2 or more")
    labels, answer = torch.full_like(ids, IGNORE), max(1, behind // 4)
    labels[:, -answer:] = ids[:, -answer:]
    return labels
