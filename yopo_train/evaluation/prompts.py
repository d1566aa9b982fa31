"""From a benchmark's items to batches of prompts, and how long each of them is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from PIL import Image

from ..data.collate import Batch, EvalCollator, TokenCounter
from ..data.conversation import IMAGE_PLACEHOLDER, Chat, Messages
from ..data.images import border_of, letterboxed

PROBE_SIZES = ((224, 224), (224, 448), (672, 448))
"""Images (height, width) that tell whether a processor makes more tokens of larger ones."""
AT_ONCE = 4096
"""Prompts that are tokenised together."""


class ItemCollator:
    """Left padded prompts of benchmark items.

    Parameters
    ----------
    processor : ProcessorMixin
        Of the model.
    system : str, optional
        The protocol's system text. It belongs to one form of conversation, Vicuna's, and is left out where the model's
        chat template does not write it as Vicuna's does: before the first ``USER:``.
    letterbox : bool
        Give images the border that LLaVA-1.5 gives them, see `letterboxed`; also for models that talk as Vicuna only,
        and only where the processor would cut off what is outside the middle square.
    """

    def __init__(self, processor: Any, system: str | None = None, letterbox: bool = False) -> None:
        self.collate = EvalCollator(processor)
        self.chat = self.collate.chat
        vicuna = bool(system or letterbox) and _is_vicuna(self.chat)
        self.system = system if system and vicuna else None
        self.border = border_of(processor.image_processor) if letterbox and vicuna else None

    def text(self, item: Any) -> str:
        """The whole prompt, one placeholder an image; no image is opened."""
        return self.chat.render(self._messages(item), prompt=True)

    def __call__(self, items: Sequence[Any]) -> Batch:
        """Model inputs of several items, see `EvalCollator`; their images are opened here.

        Raises
        ------
        UserError
            An item whose prompt holds more or fewer placeholders than it has images, or that the processor refuses.
        """
        answer = {"role": "assistant", "content": ""}
        rows = [
            {"id": item.id, "images": self._images(item), "messages": [*self._messages(item), answer], "kind": ""}
            for item in items
        ]
        return self.collate(rows)

    def _images(self, item: Any) -> list[Image.Image]:
        images = item.images()
        return images if self.border is None else [letterboxed(image, self.border) for image in images]

    def _messages(self, item: Any) -> Messages:
        image = f"{IMAGE_PLACEHOLDER}\n" if item.has_image else ""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": image + item.prompt}]


def prompt_lengths(items: Sequence[Any], texts: Sequence[str], processor: Any) -> list[int]:
    """Tokens of each prompt, visual ones included.

    Sizes of images are only asked for where the number of visual tokens depends on them.
    """
    lengths: list[int] = []  # with one token an image
    for start in range(0, len(texts), AT_ONCE):  # the ids of all of VQAv2 would take a gigabyte
        encoded = processor.tokenizer(list(texts[start : start + AT_ONCE]), add_special_tokens=False)
        lengths += [len(ids) for ids in encoded["input_ids"]]
    counter = TokenCounter(processor)
    if len({counter.tokens_of_image(size) for size in PROBE_SIZES}) == 1:
        tokens, _ = counter.tokens_of_image(PROBE_SIZES[0])
        return [length + (tokens - 1) * item.has_image for length, item in zip(lengths, items, strict=True)]
    visual = [sum(counter.tokens_of_image((h, w))[0] - 1 for w, h in item.image_sizes()) for item in items]
    return [length + tokens for length, tokens in zip(lengths, visual, strict=True)]


def prompts_digest(items: Sequence[Any], texts: Sequence[str]) -> str:
    """Twelve hexadecimal digits of what is asked, about which images, in which words, and of what is right."""
    digest = hashlib.sha256()
    for item, text in zip(items, texts, strict=True):
        marks = [picture.mark() for picture in item.pictures]
        digest.update(json.dumps([item.id, text, item.reference, marks], sort_keys=True).encode())
    return digest.hexdigest()[:12]


def _is_vicuna(chat: Chat) -> bool:
    """Whether the template writes a system text as Vicuna's does, ``<text> USER: …``, and takes one at all."""
    question = {"role": "user", "content": "q"}
    try:
        alone = chat.render([question], prompt=True)
        both = chat.render([{"role": "system", "content": "s"}, question], prompt=True)
    except Exception:  # a template may raise whatever it likes at a role that it does not know
        return False
    head, user, tail = alone.partition("USER: ")
    return bool(user) and both == f"{head}s {user}{tail}"
