"""How much a plan changes what a model answers: the measure that every choice of a plan can be judged by.

The base model answers the calibration prompts itself, greedily; no reference answers are needed. A plan is then judged
on those answer tokens: one forward pass of the pruned model, its next-token distributions beside the base model's. The
vision tower does not depend on the plan and runs once.
"""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics import Metric, SumMetric

from yopo_train.errors import UserError
from yopo_train.models import family_of, model_inputs, unwrap
from yopo_train.models.offload import entry_device, to_entry_device
from yopo_train.plan import PruningPlan
from yopo_train.pruning import active_plan, prune, unprune
from yopo_train.ranks import rank_and_world

FEATURES = ("get_image_features", "get_video_features")


class Judgement(NamedTuple):
    """``kl``: mean KL(base || pruned) of an answer token, in nats; ``agreement``: share of tokens whose most likely
    token is the same.
    """

    kl: float
    agreement: float


class OutputLoss(Metric):
    """KL divergence and top-1 agreement of next-token distributions, over all tokens of all ranks."""

    full_state_update = False
    higher_is_better = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("kl", "agreed", "tokens"):
            self.add_state(name, default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, base: Tensor, logits: Tensor) -> None:
        """Add tokens.

        Parameters
        ----------
        base
            Log-probabilities, float32 ``(tokens, vocabulary)``.
        logits
            Of the pruned model, ``(tokens, vocabulary)``.
        """
        pruned = logits.float().log_softmax(dim=-1)
        self.kl += (base.exp() * (base - pruned)).sum().to(self.kl)
        self.agreed += (base.argmax(dim=-1) == pruned.argmax(dim=-1)).sum().to(self.agreed)
        self.tokens += len(base)

    def compute(self) -> Judgement:
        """Means over the tokens."""
        tokens, total = max(float(self.tokens), 1.0), float(self.kl)
        # a plan that overflows is the worst; rounding may leave one that prunes nothing a hair below zero
        kl = max(total / tokens, 0.0) if math.isfinite(total) else math.inf
        return Judgement(kl, float(self.agreed) / tokens)


@dataclass
class Answered:
    """One batch of prompts with the base model's answers.

    ``inputs`` are those of the model, the answers behind the prompts; ``is_answer`` is bool ``(batch, new tokens)``,
    False behind an answer's end; ``base`` the base model's log-probabilities of the answer tokens, float32
    ``(answer tokens, vocabulary)``; ``features`` what the vision tower gave, by the method that gave it.
    """

    inputs: dict[str, Any]
    is_answer: Tensor
    base: Tensor
    features: dict[str, Any]


class OutputJudge:
    """Judges plans by the model's answers to calibration prompts.

    Parameters
    ----------
    model
        The stock multimodal model, unpruned, in evaluation mode; it is so again after each judgement. Where weights are
        offloaded, each plan loads all of them once.
    answer_tokens
        Longest answer.

    Raises
    ------
    UserError
        The model is pruned.
    """

    def __init__(self, model: nn.Module, answer_tokens: int = 16) -> None:
        if active_plan(model) is not None:
            raise UserError(
                "plans are judged against the unpruned model, found a pruned one: call unprune(model) first"
            )
        self.model, self.answer_tokens = unwrap(model), answer_tokens
        self.core = family_of(self.model).core(self.model)
        self.answered: list[Answered] = []
        device = entry_device(self.model)
        self._samples, self._tokens = SumMetric().to(device), SumMetric().to(device)

    @property
    def samples(self) -> int:
        """Prompts, on all ranks."""
        return int(self._samples.compute())

    @property
    def tokens(self) -> int:
        """Answer tokens, on all ranks."""
        return int(self._tokens.compute())

    @torch.inference_mode()
    def add(self, batch: Mapping[str, Any]) -> None:
        """Let the base model answer **left** padded prompts (``input_ids`` ``(batch, tokens)``, image inputs, ...).

        Raises
        ------
        UserError
            The batch is padded at the right: the model would continue the padding.
        """
        inputs = to_entry_device(self.model, model_inputs(batch))
        if not inputs["attention_mask"][:, -1].all():
            raise UserError("the prompts to judge plans on are right padded, expected left padding")
        features: dict[str, Any] = {}
        with self._features(features):
            tokens = self._answers(inputs)
            ends = torch.isin(tokens, torch.tensor(self._end_tokens(), device=tokens.device))
            is_answer = ends.cumsum(dim=1) - ends.long() == 0
            grown = {name: _longer(value, inputs["input_ids"], tokens.shape[1]) for name, value in inputs.items()}
            grown["input_ids"] = torch.cat((inputs["input_ids"], tokens), dim=1)
            grown["attention_mask"] = torch.cat((inputs["attention_mask"], is_answer.to(inputs["attention_mask"])), 1)
            logits = self._logits(grown, is_answer)
        self.answered.append(Answered(grown, is_answer, logits.float().log_softmax(dim=-1), features))
        self._samples.update(len(is_answer))
        self._tokens.update(int(is_answer.sum()))

    @torch.inference_mode()
    def __call__(self, plan: PruningPlan, samples: int | None = None) -> Judgement:
        """The plan's effect on the answers, over the samples of all ranks.

        Parameters
        ----------
        samples
            Judge by the first so many prompts only, counted over all ranks, which take turns; None takes all.
        """
        loss = OutputLoss().to(entry_device(self.model))
        features: dict[str, Any] = {}
        with self._features(features):  # under the plan, so that the engine meets them as it meets the tower's
            self._prune(plan)
            try:
                for batch, counted in self._first(samples):
                    features.clear()
                    features |= batch.features
                    loss.update(batch.base[: int(counted.sum())], self._logits(batch.inputs, counted))
            finally:
                unprune(self.model)
        return loss.compute()

    def _prune(self, plan: PruningPlan) -> None:
        """Without the warning that offloaded weights are not sliced: what counts here is the result."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*linear layers cannot be sliced")
            prune(self.model, plan)

    def _first(self, samples: int | None) -> Iterator[tuple[Answered, Tensor]]:
        """Batches, and which of their answer tokens count: the same ones in batches of any size on any ranks."""
        rank, world = rank_and_world()
        mine = sum(len(batch.is_answer) for batch in self.answered)
        left = mine if samples is None else -(-(samples - rank) // world)
        for batch in self.answered:
            if left <= 0:
                return
            counted = batch.is_answer.clone()
            counted[left:] = False
            yield batch, counted
            left -= len(counted)

    def _answers(self, inputs: dict[str, Any]) -> Tensor:
        """Greedy answers ``(batch, new tokens)``."""
        ends = self._end_tokens()
        out = self.model.generate(
            **inputs,
            max_new_tokens=self.answer_tokens,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            pad_token_id=ends[0],
        )
        return out[:, inputs["input_ids"].shape[1] :]

    def _end_tokens(self) -> list[int]:
        ends = self.model.generation_config.eos_token_id
        ends = self.model.config.get_text_config().eos_token_id if ends is None else ends
        if ends is None:
            raise UserError("the model names no end-of-sequence token (eos_token_id), expected one in its config")
        return list(ends) if isinstance(ends, list | tuple) else [ends]

    def _logits(self, inputs: dict[str, Any], is_answer: Tensor) -> Tensor:
        """Logits that predict the answer tokens, ``(answer tokens, vocabulary)``."""
        new = is_answer.shape[1]
        logits = self.model(**inputs, use_cache=False, logits_to_keep=new + 1).logits
        return logits[:, -new - 1 : -1][is_answer]

    @contextmanager
    def _features(self, known: dict[str, Any]) -> Iterator[None]:
        """Within this context the vision tower's output is taken from ``known``, and put there where it is missing."""
        names = [name for name in FEATURES if hasattr(self.core, name)]
        before = {name: vars(self.core).get(name) for name in names}

        def remembering(name: str, method):
            @wraps(method)  # `generate` reads its signature
            def features(*args: Any, **kwargs: Any) -> Any:
                if name not in known:
                    known[name] = _slim(method(*args, **kwargs))
                return copy(known[name])

            return features

        for name in names:
            setattr(self.core, name, remembering(name, getattr(self.core, name)))
        try:
            yield
        finally:
            for name in names:
                delattr(self.core, name)
                if before[name] is not None:
                    setattr(self.core, name, before[name])


def _slim(output: Any) -> Any:
    """What the language model reads of the vision tower's output, without the tower's own layers."""
    for name in ("last_hidden_state", "hidden_states", "attentions"):
        if getattr(output, name, None) is not None:
            output[name] = None
    return output


def _longer(value: Any, ids: Tensor, new: int) -> Any:
    """An input with an entry a token, such as ``mm_token_type_ids``, with zeros for the new tokens; others as is."""
    if not isinstance(value, Tensor) or value.shape != ids.shape:
        return value
    return torch.cat((value, value.new_zeros(len(value), new)), dim=1)
