"""From the rows that people have to the one form that the rest of the program knows.

A row is ``{id, kind, messages, images}``: ``messages`` a list of ``{role, content}``, in which ``<image>`` says where
an image goes, ``images`` a list of paths and of ``{bytes, path}``. Read are, too:

- LLaVA's conversations: ``conversations`` of ``{from, value}``, ``image`` a path, a list of them, or absent;
- Hugging Face messages whose content is a list of parts, ``{type: text, text}`` and ``{type: image}``; an image stands
  in its part (``image``, ``path``, ``url`` or ``image_url``: a file, bytes or a ``data:`` address), or is the next one
  of the column ``images``.

``id`` and ``kind`` may be missing. Conversion is lazy, a row at a time, so nothing is copied.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from .conversation import IMAGE_PLACEHOLDER

TURNS = ("messages", "conversations")
IMAGES = ("images", "image")
KNOWN = ("id", "images", "image", "messages", "conversations", "kind", "place", "problem", "fault")
"""Columns that are read; the last three are written by `json_files`."""
SPEAKERS = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}
"""What LLaVA's ``from`` means."""
PART_IMAGES = ("image", "image_url", "url", "path")
"""Where a part of type image may hold its image."""
DEFAULT_KIND = "question"
"""The kind of rows that name none."""

Image = str | dict[str, Any]
Row = dict[str, Any]


class RowError(ValueError):
    """A row that cannot be used.

    Parameters
    ----------
    fault
        A few words, the same for all rows with this fault: what the counts are listed by.
    message
        What is wrong with this row.
    """

    def __init__(self, fault: str, message: str) -> None:
        super().__init__(fault, message)
        self.fault, self.message = fault, message

    def __str__(self) -> str:
        return self.message


def as_row(raw: dict[str, Any], number: int) -> Row:
    """A row of any of the formats in the one form.

    Parameters
    ----------
    raw
        As it stands in the file.
    number
        Its place in the set, which is its id where it has none.

    Raises
    ------
    RowError
        It has no messages, or something in it is of another type.
    """
    if raw.get("problem") is not None:
        raise RowError(raw["fault"], raw["problem"])
    queue = [_image(image) for image in _as_list(_first(raw, IMAGES))]
    messages, images = _messages(_first(raw, TURNS), queue)
    kind = raw.get("kind", DEFAULT_KIND)
    if kind is None:
        raise RowError("no kind", "kind is missing")
    return {"id": row_id(raw, number), "kind": str(kind), "messages": messages, "images": images}


def answerable(row: Row) -> Row:
    """The row with an empty last answer where it has none: somebody else is going to give it."""
    messages = row["messages"]
    if not messages or messages[-1]["role"] != "user":
        return row
    return row | {"messages": [*messages, {"role": "assistant", "content": ""}]}


def row_id(raw: dict[str, Any], number: int) -> str:
    """What messages call a row."""
    return str(raw["id"] if raw.get("id") is not None else number)


def _messages(turns: Any, queue: list[Image]) -> tuple[list[dict[str, str]], list[Image]]:
    """Messages with placeholders, and the images in the order in which they are asked for."""
    if isinstance(turns, dict):  # how older versions of `datasets` store a list of structs
        turns = [dict(zip(turns, values, strict=True)) for values in zip(*turns.values(), strict=True)]
    if not isinstance(turns, list):
        raise RowError("no messages", f"messages are {turns!r}, expected a list of messages")
    messages, images = [], []
    for turn in turns:
        if not isinstance(turn, dict):
            raise RowError("no messages", f"a message is {turn!r}, expected {{role, content}}")
        role = turn["role"] if turn.get("role") is not None else SPEAKERS.get(turn.get("from"), turn.get("from"))
        content = turn["content"] if turn.get("content") is not None else turn.get("value")
        messages.append({"role": role, "content": _text(content, queue, images)})
    return messages, images + queue  # those that nobody asks for are counted, and refused, by the check


def _text(content: Any, queue: list[Image], images: list[Image]) -> str:
    """The content with a placeholder an image; its images move from ``queue``, or out of its parts, to ``images``."""
    if isinstance(content, str):
        parts = [{"type": "text", "text": content}]
    elif isinstance(content, list):
        parts = content
    else:
        raise RowError("content is no text", f"the content of a message is {content!r}, expected text")
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("image", "image_url"):
            texts.append(IMAGE_PLACEHOLDER)
            own = next((part[key] for key in PART_IMAGES if _is_given(part.get(key))), None)
            images.extend([_image(own)] if own is not None else _take(queue, 1))
        elif kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
            images.extend(_take(queue, part["text"].count(IMAGE_PLACEHOLDER)))
        else:
            raise RowError("content is no text", f"a part of a message is {part!r}, expected type text or image")
    return "".join(texts)


def _image(value: Any) -> Image:
    """A path, or ``{bytes, path}``."""
    if isinstance(value, dict):
        if value.get("bytes") is not None:
            return {"bytes": value["bytes"], "path": value.get("path")}
        return _image(next((value[key] for key in ("path", "url") if value.get(key)), None))
    if isinstance(value, bytes):
        return {"bytes": value, "path": None}
    if not isinstance(value, str):
        raise RowError("no image", f"an image is {value!r}, expected a file or its bytes")
    if value.startswith("data:"):
        try:
            return {"bytes": base64.b64decode(value.partition(",")[2], validate=True), "path": None}
        except binascii.Error as error:
            raise RowError("image is unreadable", f"an image's data: address is not base64 ({error})") from None
    if value.startswith(("http://", "https://")):
        raise RowError("image is an address", f"the image {value!r} is an address, expected a file")
    return value.removeprefix("file://")


def _is_given(value: Any) -> bool:
    return any(item is not None for item in value.values()) if isinstance(value, dict) else value not in (None, "")


def _take(queue: list[Image], number: int) -> list[Image]:
    taken, queue[:] = queue[:number], queue[number:]
    return taken


def _first(raw: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((raw[name] for name in names if raw.get(name) is not None), None)


def _as_list(value: Any) -> list:
    if isinstance(value, list):
        return value
    return [value] if _is_given(value) else []
