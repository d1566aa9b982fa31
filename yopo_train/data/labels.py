"""Which tokens are trained: the assistant's answers and nothing else.

The answers' characters are known in the text *before* the processor replaces each image placeholder by a run of image
tokens. The same text is therefore tokenised twice, without images (with character offsets) and with them, and the two
token sequences are laid over each other. That needs nothing of the processor but its output.
"""

from __future__ import annotations

from collections.abc import Sequence

IGNORE = -100


def answer_labels(
    ids: Sequence[int],
    text_ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    spans: Sequence[tuple[int, int]],
    image_token: int,
) -> list[int]:
    """Labels of one sample, without padding.

    Parameters
    ----------
    ids : (tokens,)
        The processor's tokens, a run of image tokens per image.
    text_ids, offsets : (text_tokens,)
        The same text tokenised with one token per image, and each token's characters ``[start, end)``.
    spans : list of (start, end)
        Characters of the answers.
    image_token : int
        Id of the image token.

    Returns
    -------
    list of int, (tokens,)
        The token where it lies within an answer, -100 everywhere else.
    """
    labels = [IGNORE] * len(ids)
    places = text_places(ids, text_ids, image_token)
    for place, token, (start, end) in zip(places, text_ids, offsets, strict=True):
        inside = any(first <= start < end <= last for first, last in spans)
        if inside and place is not None:
            labels[place] = token
    return labels


def text_places(ids: Sequence[int], text_ids: Sequence[int], image_token: int) -> list[int | None]:
    """Where each text token stands in ``ids``; ``None`` for the image placeholders.

    A placeholder may have become more than image tokens (InternVL adds a token before and behind each image).

    Raises
    ------
    ValueError
        The sequences hold different text.
    """
    ids, places, position = list(ids), [], 0
    segments = _segments(text_ids, image_token)
    for i, segment in enumerate(segments):
        if i > 0:
            places.append(None)
            position = _behind_image(ids, position, segment, image_token)
        if ids[position : position + len(segment)] != segment:
            raise ValueError("the processor's tokens differ from the tokenizer's: cannot tell answers from prompts")
        places += range(position, position + len(segment))
        position += len(segment)
    if segments[-1] and position != len(ids):
        raise ValueError(f"{len(ids) - position} tokens of the processor follow where the text has ended")
    return places


def _segments(text_ids: Sequence[int], image_token: int) -> list[list[int]]:
    """The text tokens before, between and behind the images."""
    segments: list[list[int]] = [[]]
    for token in text_ids:
        if token == image_token:
            segments.append([])
        else:
            segments[-1].append(token)
    return segments


def _behind_image(ids: list[int], position: int, segment: list[int], image_token: int) -> int:
    """The first position behind an image at which ``segment`` stands.

    Two images with no text between them may be one run of image tokens: the first skips it all, and for the second
    ``segment`` stands right there.
    """

    def found() -> bool:
        return position >= len(ids) or ids[position : position + len(segment)] == segment

    while not found() and ids[position] != image_token:
        position += 1
    while position < len(ids) and ids[position] == image_token:
        position += 1
    while not found():
        position += 1
    return position
