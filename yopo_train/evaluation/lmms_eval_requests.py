"""Answers to lmms-eval's requests; knows their shape, and imports nothing of lmms-eval."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import nn

from ..data.collate import EvalCollator
from ..data.conversation import IMAGE_PLACEHOLDER
from ..errors import UserError
from ..models.offload import entry_device, moved
from ..progress import Bar
from .generation import generate_answers
from .loading import loaded

MAX_NEW_TOKENS = 1024
"""Where a task does not say: as lmms-eval's own wrappers for LLaVA have it."""


@dataclass(frozen=True)
class Question:
    """One request.

    Attributes
    ----------
    number : int
        Its place among the requests.
    settings : dict
        The task's ``generation_kwargs``.
    """

    number: int
    messages: Callable[[], list[dict[str, Any]]]
    settings: Mapping[str, Any]

    @property
    def max_new_tokens(self) -> int:
        """Longest answer."""
        return int(self.settings.get("max_new_tokens") or MAX_NEW_TOKENS)

    def check(self) -> None:
        """Refuse what is not greedy; ``until`` is ignored, as in lmms-eval's wrappers for LLaVA.

        Raises
        ------
        UserError
            A task that samples or searches.
        """
        sampled = {"temperature": 0, "num_beams": 1, "do_sample": False}
        for name, expected in sampled.items():
            if self.settings.get(name) not in (None, expected):
                raise UserError(f"lmms-eval asks for {name} {self.settings[name]}, expected {expected}: yopo is greedy")


def answer_requests(
    model: nn.Module,
    processor: Any,
    requests: Sequence[Any],
    task_dict: Mapping[str, Mapping[str, Any]],
    checked: Callable[[list[dict]], list[dict]] = lambda messages: messages,
    batch_size: int = 1,
    use_cache: bool = True,
    progress: str | None = None,
) -> list[str]:
    """Greedy answers, in the order of the requests.

    Parameters
    ----------
    model, processor
        In evaluation mode, on its device.
    requests : sequence of Instance
        Each with ``args``: ``(context, doc_to_messages, generation_kwargs, doc_id, task, split)``.
    task_dict
        Task to split to documents.
    checked
        lmms-eval's own reading of messages (`ChatMessages`).
    batch_size
        Prompts at once.
    use_cache
        See `generate_answers`.
    progress
        Name of a progress bar.

    Raises
    ------
    UserError
        A task that samples, or one with videos or sound.
    """
    questions = [_question(number, request, task_dict, checked) for number, request in enumerate(requests)]
    for question in questions:
        question.check()
    order = sorted(range(len(questions)), key=lambda number: questions[number].max_new_tokens)
    batches = list(_runs(order, questions, batch_size))
    collate, answers = EvalCollator(processor), dict[int, str]()
    made = loaded(questions, batches, lambda found: collate([_row(question) for question in found]), workers=0)
    with Bar(progress, "requests", len(questions)) if progress is not None else nullcontext() as bar:
        for batch, inputs in zip(batches, made, strict=True):
            inputs = moved({name: value for name, value in inputs.items() if name != "meta"}, entry_device(model))
            longest = questions[batch[0]].max_new_tokens
            found = generate_answers(model, processor, inputs, longest, use_cache=use_cache)
            answers |= dict(zip(batch, found, strict=True))
            if bar is not None:
                bar.advance_to(len(answers))
    return [answers[number] for number in range(len(questions))]


def _question(number: int, request: Any, task_dict: Mapping[str, Any], checked: Callable) -> Question:
    _, doc_to_messages, settings, doc_id, task, split = request.args
    return Question(number, lambda: checked(doc_to_messages(task_dict[task][split][doc_id])), settings or {})


def _runs(order: Sequence[int], questions: Sequence[Question], batch_size: int) -> Iterator[list[int]]:
    """Batches of requests with the same longest answer."""
    waiting = deque(order)
    while waiting:
        batch = [waiting.popleft()]
        longest = questions[batch[0]].max_new_tokens
        while waiting and len(batch) < batch_size and questions[waiting[0]].max_new_tokens == longest:
            batch.append(waiting.popleft())
        yield batch


def _row(question: Question) -> dict[str, Any]:
    """A request as a row of a question set, its images in the order of their places."""
    images, messages = [], []
    for message in question.messages():
        text = ""
        for part in message["content"]:
            if part["type"] == "image":
                images.append(_image(part["url"]))
                text += f"{IMAGE_PLACEHOLDER}\n"
            elif part["type"] == "text":
                text += part["text"]
            else:
                raise UserError(f"lmms-eval asks with {part['type']}, expected images and text only")
        messages.append({"role": message["role"], "content": text})
    answer = {"role": "assistant", "content": ""}
    return {"id": str(question.number), "kind": "", "images": images, "messages": [*messages, answer]}


def _image(given: Any) -> Image.Image:
    return (given if isinstance(given, Image.Image) else Image.open(given)).convert("RGB")
