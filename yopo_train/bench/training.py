"""The LoRA training step that bench times: forward, loss on the last text tokens, backward, AdamW."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import UserError
from ..models.prompt import visual_mask
from ..pruning import unprune
from ..recovery.adapter import attach_lora
from ..recovery.lora_options import LoraOptions
from ..recovery.loss import IGNORE, answer_loss
from .call import LanguageModelCall
from .timer import Stopwatch


class LoraStep:
    """A training step of a model with an adapter.

    Parameters
    ----------
    model : nn.Module
        With a trainable adapter, in training mode.
    inputs : dict
        Model inputs; see `answer_labels` for the labels.
    vision : bool
        False: all in front of the language model runs when a contender first comes, and is no part of the step.
    """

    def __init__(self, model: nn.Module, inputs: dict[str, Tensor], vision: bool = True) -> None:
        self.model, self.inputs, self.labels = model, inputs, answer_labels(model, inputs)
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.vision = vision
        self._calls: dict[Callable, LanguageModelCall] = {}

    def prepare(self, switch: Callable[[nn.Module], nn.Module]) -> None:
        """Put a contender's plan on. The weights are reordered by it, an optimizer's state is not: it starts anew."""
        switch(self.model)
        if not self.vision and switch not in self._calls:
            self._calls[switch] = LanguageModelCall(self.model, self.inputs, use_cache=False)
        self._language_model = self._calls.get(switch)
        self.optimizer = torch.optim.AdamW(self.weights, lr=1e-6)

    def backward(self) -> None:
        """Gradients of the loss."""
        self.loss().backward()

    def loss(self) -> Tensor:
        """Mean cross-entropy of the labels, the LM head where they are predicted only."""
        if self._language_model is None:
            return answer_loss(self.model, {**self.inputs, "labels": self.labels})
        answer = int((self.labels[0] != IGNORE).sum())  # the last tokens, see `answer_labels`
        logits = self._language_model.logits(slice(-answer - 1, -1))
        return F.cross_entropy(logits.float().flatten(0, 1), self.labels[:, -answer:].flatten())

    @property
    def held(self) -> list[Tensor]:
        """Tensors beside the weights that are there before a step, and stay."""
        made = tree_leaves(self._language_model.inputs) if self._language_model is not None else []
        return [x for x in (*self.inputs.values(), self.labels, *made) if isinstance(x, Tensor)]

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
def lora_step(model: nn.Module, inputs: dict[str, Tensor], vision: bool = True) -> Iterator[LoraStep]:
    """A `LoraStep` on a model in eval mode; the adapter is gone afterwards, and the model's weights are frozen."""
    tuned = attach_lora(model, LoraOptions())
    try:
        yield LoraStep(tuned.train(), inputs, vision)
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
