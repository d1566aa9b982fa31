"""From rows to batches of model inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..errors import UserError, first_line
from .conversation import IMAGE_PLACEHOLDER, Chat, Messages
from .labels import IGNORE, answer_labels

Row = dict[str, Any]
Batch = dict[str, Any]


class Collator:
    """What the two collators below share: text and images of several rows through the model's processor.

    ``pixel_values`` (and whatever else belongs to images) are absent when no row of the batch has an image.
    """

    padding_side: str
    pad_to_multiple_of: int | None = None

    def __init__(self, processor: Any) -> None:
        if processor.tokenizer.pad_token_id is None:
            raise UserError(f"the tokenizer ({type(processor.tokenizer).__name__}) has no padding token")
        self.processor = processor
        self.chat = Chat(processor)

    def _process(self, rows: list[Row], texts: list[str]) -> Batch:
        for row, text in zip(rows, texts, strict=True):
            found = text.count(self.processor.image_token)
            if found != len(row["images"]):
                raise UserError(
                    f"row {row['id']!r}: its prompt holds {found} times {self.processor.image_token!r}, "
                    f"expected {len(row['images'])}, one for each image"
                )
        images = [image for row in rows for image in row["images"]]
        try:
            inputs = self.processor(
                images=images or None,
                text=texts,
                padding=True,
                padding_side=self.padding_side,
                pad_to_multiple_of=self.pad_to_multiple_of,
                add_special_tokens=self._adds_special_tokens(texts),
                return_tensors="pt",
            )
        except ValueError as error:  # Qwen-VL's of an image that is 200 times as long as wide, for example
            names, reason = ", ".join(repr(row["id"]) for row in rows), first_line(error)
            raise UserError(f"the model's processor refuses one of the rows {names}: {reason}") from error
        return {**inputs, "meta": [_meta(row) for row in rows]}

    def _adds_special_tokens(self, texts: list[str]) -> bool:
        """Some templates write the begin-of-sequence token themselves; it must not stand twice."""
        bos = self.processor.tokenizer.bos_token
        return bos is None or not texts[0].startswith(bos)


class TrainCollator(Collator):
    """Whole conversations, right padded, with labels on the answers.

    Gives ``input_ids``, ``attention_mask`` and ``labels`` ``(batch, tokens)``, the image inputs, and ``meta``: a list
    of ``{id, kind, question, answer}``.
    """

    padding_side = "right"
    pad_to_multiple_of = 16  # kernels are chosen (on CPU: compiled) for each new length, so let there be few

    def __call__(self, rows: list[Row]) -> Batch:
        texts, spans = zip(*(self.chat.answer_spans(row["messages"]) for row in rows), strict=True)
        batch = self._process(rows, list(texts))
        encoded = self._tokenize(list(texts))
        labels = torch.full_like(batch["input_ids"], IGNORE)
        for i, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
            ids = batch["input_ids"][i, :length].tolist()
            answers = answer_labels(
                ids, encoded["input_ids"][i], encoded["offset_mapping"][i], spans[i], self.processor.image_token_id
            )
            labels[i, :length] = torch.tensor(answers)
        return {**batch, "labels": labels}

    def _tokenize(self, texts: list[str]) -> dict[str, list]:
        """The texts with one token an image, and each token's characters."""
        return self.processor.tokenizer(
            texts, return_offsets_mapping=True, add_special_tokens=self._adds_special_tokens(texts)
        )


class TokenCounter(TrainCollator):
    """Length of a training row in tokens without reading its images: only their sizes count."""

    def __init__(self, processor: Any) -> None:
        super().__init__(processor)
        self._image_tokens: dict[tuple[int, int], tuple[int, int]] = {}

    def count(self, rows: Sequence[tuple[Messages, Sequence[tuple[int, int]]]]) -> list[tuple[int, int]]:
        """Tokens, and the visual ones among them, of conversations with images of these (height, width).

        Raises
        ------
        UserError
            The model's processor refuses such an image.
        """
        if not rows:
            return []
        texts = [self.chat.render(messages) for messages, _ in rows]
        ids = self.processor.tokenizer(texts, add_special_tokens=self._adds_special_tokens(texts))["input_ids"]
        found = [[self.tokens_of_image(size) for size in sizes] for _, sizes in rows]
        return [
            (len(tokens) + sum(count - 1 for count, _ in images), sum(visual for _, visual in images))
            for tokens, images in zip(ids, found, strict=True)
        ]

    def tokens_of_image(self, size: tuple[int, int]) -> tuple[int, int]:
        """Tokens that take a placeholder's place, and the visual ones among them."""
        if size not in self._image_tokens:
            blank = torch.zeros(3, *size, dtype=torch.uint8).numpy()
            try:
                inputs = self.processor(images=[blank], text=[self.processor.image_token], add_special_tokens=False)
            except ValueError as error:
                raise UserError(f"the model's processor refuses an image: {first_line(error)}") from error
            ids = inputs["input_ids"][0]
            self._image_tokens[size] = len(ids), list(ids).count(self.processor.image_token_id)
        return self._image_tokens[size]


class EvalCollator(Collator):
    """Prompts without their last answer, left padded so that generation continues each of them.

    Gives ``input_ids`` and ``attention_mask`` ``(batch, tokens)``, the image inputs, and ``meta`` as `TrainCollator`.
    """

    padding_side = "left"

    def __call__(self, rows: list[Row]) -> Batch:
        return self._process(rows, [self.chat.render(row["messages"][:-1], prompt=True) for row in rows])


def _meta(row: Row) -> dict[str, Any]:
    """Who a sample is, and what was asked last; and what was wrong with the rows that it stands in for."""
    asked = [message["content"] for message in row["messages"] if message["role"] == "user"]
    return {
        "id": row["id"],
        "kind": row["kind"],
        "question": asked[-1].replace(IMAGE_PLACEHOLDER, "").strip() if asked else "",
        "answer": row["messages"][-1]["content"],
    } | ({"instead_of": row["instead_of"]} if "instead_of" in row else {})
