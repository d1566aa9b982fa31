"""Turns of a conversation with a model, streamed and timed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from transformers import TextStreamer

from ..data.collate import EvalCollator
from ..data.conversation import IMAGE_PLACEHOLDER
from ..data.images import ImageSizing
from ..errors import UserError, first_line
from ..models import model_inputs
from ..models.offload import entry_device, moved
from ..models.prompt import visual_mask
from ..pruning import active_plan


class TimedStreamer(TextStreamer):
    """Prints words as they come, and notes when the first token and the last one came."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.times: list[float] = []
        self._began = False

    def put(self, value: torch.Tensor) -> None:
        """A token, or at first the prompt."""
        if not self.next_tokens_are_prompt:
            self.times.append(time.perf_counter())
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Print it; the space in front of the first word is the tokenizer's."""
        text = text if self._began else text.lstrip()
        self._began = self._began or bool(text)
        super().on_finalized_text(text, stream_end)


@dataclass
class Answer:
    """What a model said, and how long it took.

    Parameters
    ----------
    text
        Without special tokens.
    visual_tokens, text_tokens
        Of the prompt.
    tokens
        Of the answer.
    first_token
        Seconds until the first token: vision tower, prefill and the choice of the token.
    rest
        Seconds from the first token to the last.
    """

    text: str
    visual_tokens: int
    text_tokens: int
    tokens: int
    first_token: float
    rest: float

    def timing(self) -> str:
        """One line."""
        prompt = f"{self.visual_tokens} visual + {self.text_tokens} text tokens"
        line = f"first token after {1000 * self.first_token:.0f} ms ({prompt})"
        if self.tokens > 1:
            line += f", then {(self.tokens - 1) / max(self.rest, 1e-9):.1f} tokens/s"
        return f"{line}, {self.tokens} tokens"


@dataclass
class Conversation:
    """A model, and what has been said.

    Parameters
    ----------
    model, processor
        As `load` gives them.
    max_new_tokens
        Longest answer.
    sizing
        What images are given before the processor sees them.
    messages, images
        So far; images in the order in which the messages hold their placeholders.
    """

    model: Any
    processor: Any
    max_new_tokens: int = 256
    sizing: ImageSizing = field(default_factory=ImageSizing)
    messages: list[dict[str, str]] = field(default_factory=list)
    images: list[Image.Image] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._collate = EvalCollator(self.processor)
        self.sizing.fit_to(self.processor)

    def ask(self, question: str, images: Sequence[Image.Image] = ()) -> Answer:
        """Ask, print the answer while it is made, and remember both.

        Raises
        ------
        UserError
            The processor refuses an image.
        """
        asked = {"role": "user", "content": IMAGE_PLACEHOLDER * len(images) + question}
        messages, pictures = [*self.messages, asked], [*self.images, *images]
        answer = self._answer(messages, pictures)
        self.messages, self.images = [*messages, {"role": "assistant", "content": answer.text}], pictures
        return answer

    def clear(self) -> None:
        """Forget all of it."""
        self.messages, self.images = [], []

    @torch.no_grad()
    def _answer(self, messages: list[dict[str, str]], images: list[Image.Image]) -> Answer:
        row = {
            "id": "chat",
            "kind": "",
            "images": [self.sizing(image) for image in images],
            "messages": [*messages, {"role": "assistant", "content": ""}],
        }
        inputs = moved(model_inputs(self._collate([row])), entry_device(self.model))
        streamer, config = TimedStreamer(self.processor.tokenizer), self.model.generation_config
        plan = active_plan(self.model)
        tokenizer, length = self.processor.tokenizer, inputs["input_ids"].shape[1]
        started = time.perf_counter()
        tokens = self.model.generate(
            **inputs,
            streamer=streamer,
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            num_beams=1,
            use_cache=plan is None or plan.semantics == "compact",  # the authors' masking keeps none
            eos_token_id=config.eos_token_id if config.eos_token_id is not None else tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        text = tokenizer.decode(tokens[0, length:], skip_special_tokens=True).strip()
        visual = int(visual_mask(self.model, inputs).sum())
        first, last = streamer.times[0], streamer.times[-1]
        return Answer(text, visual, length - visual, len(streamer.times), first - started, last - first)


def open_image(path: str | Path) -> Image.Image:
    """An image file, as RGB.

    Raises
    ------
    UserError
        No such file, or not an image.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"image {path}: {'is a folder' if path.is_dir() else 'no such file'}, expected an image file")
    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except UnidentifiedImageError:
        raise UserError(f"image {path}: not an image that can be read (expected JPEG, PNG, …)") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"image {path}: cannot be read: {first_line(error)}") from None
