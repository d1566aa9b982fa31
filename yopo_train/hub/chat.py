"""``yopo-train chat``: a conversation with a model in the terminal, which sees images as it did in its run."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image

from ..errors import UserError, first_line
from ..pruning import active_plan
from .conversation import Conversation, open_image
from .load import load_source
from .source import find

HELP = "/image FILE adds an image to the next question, /new starts anew, /quit (or ctrl-D) leaves"


def talk(conversation: Conversation, lines: Iterator[str], images: Sequence[Image.Image] = ()) -> None:
    """Answer one line after the other; timing goes to stderr, so that stdout holds the answers alone.

    Parameters
    ----------
    lines
        Questions and commands (see `HELP`). What is wrong with one is said, and the next one is read.
    images
        Of the first question.
    """
    waiting = list(images)
    for line in map(str.strip, lines):
        command, _, argument = line.partition(" ")
        if command == "/quit":
            return
        try:
            if command == "/image":
                waiting.append(open_image(argument.strip()))
            elif command == "/new":
                conversation.clear()
                waiting = list(images)
            elif command == "/help":
                _say(HELP)
            elif line.startswith("/"):
                raise UserError(f"{command} is no command: {HELP}")
            elif line:
                answer = conversation.ask(line, waiting)
                waiting = []
                _say(answer.timing())
        except UserError as error:
            _say(f"error: {error}")
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            _say("\n(stopped)")


def typed(prompt: str = "> ") -> Iterator[str]:
    """What a person types, until ctrl-D or ctrl-C."""
    while True:
        try:
            yield input(prompt)
        except (EOFError, KeyboardInterrupt):
            print()
            return


def chat(
    model: str,
    images: Sequence[str | Path] = (),
    prompt: str | None = None,
    *,
    base: str | None = None,
    revision: str | None = None,
    dense: bool = False,
    dtype: str = "auto",
    device: str = "auto",
    max_new_tokens: int = 256,
) -> None:
    """Talk: one question, or what a person types, or the lines of stdin.

    Parameters
    ----------
    model, base, revision, dtype
        See `load`.
    images
        Files; of the first question.
    prompt
        The only question; None reads questions.
    dense
        Leave the plan away.
    device
        auto is the GPU where there is one.
    max_new_tokens
        Longest answer.

    Raises
    ------
    UserError
        A missing image, no stdin or none of text, an unknown device, whatever `load` refuses, or a model that cannot be
        talked to.
    """
    if max_new_tokens < 1:
        raise UserError(f"--max_new_tokens is {max_new_tokens}, expected a number >= 1")
    if prompt is not None and not prompt.strip():
        raise UserError("--prompt is empty, expected a question")
    if prompt is None and sys.stdin is None:
        raise UserError("stdin is closed, expected --prompt, or questions there")
    pictures = [open_image(path) for path in images]
    place = device_of(device)
    source = find(model, revision)
    loaded, processor = load_source(source, base, not dense, dtype=dtype)
    conversation = Conversation(loaded.to(place), processor, max_new_tokens, source.sizing)
    if (plan := active_plan(loaded)) is not None:
        _say(plan.describe())
    if prompt is not None:
        _say(conversation.ask(prompt.strip(), pictures).timing())
        return
    by_hand = sys.stdin.isatty()
    if by_hand:
        _say(HELP)
    try:
        talk(conversation, typed() if by_hand else sys.stdin, pictures)
    except UnicodeDecodeError as error:
        raise UserError(f"stdin is not text in {error.encoding}: {error.reason}") from None


def device_of(name: str) -> str:
    """The device that is meant: auto is the GPU where there is one.

    Raises
    ------
    UserError
        Not a device of this machine.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = first_line(error)
        raise UserError(f"--device is {name!r}, expected a device of this machine: {reason}") from None
    return name


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
