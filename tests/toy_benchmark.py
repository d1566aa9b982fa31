"""A benchmark of drawn noise that is scored as GQA is: exact match."""

from dataclasses import dataclass, replace

import torch
from PIL import Image

from yopo_train.evaluation.benchmarks import GenerationSettings

MAX_NEW_TOKENS = 2


@dataclass(frozen=True)
class ToyItem:
    """Prompts of different lengths; all but every fourth, or only one of so many, have an image."""

    number: int
    answer: str | None = "surely wrong"
    side: int = 96
    every: int | None = None
    pictures = ()

    @property
    def id(self) -> str:
        return f"toy-{self.number}"

    @property
    def prompt(self) -> str:
        return f"Question {self.number}?" + " word" * (self.number % 5)

    @property
    def reference(self) -> dict:
        return {"id": self.id, "answer": self.answer}

    @property
    def has_image(self) -> bool:
        return self.number % 4 != 3 if self.every is None else self.number % self.every == 0

    def image_sizes(self) -> list[tuple[int, int]]:
        return [(self.side, self.side)] * self.has_image

    def images(self) -> list[Image.Image]:
        generator = torch.Generator().manual_seed(self.number)
        pixels = torch.randint(0, 256, (self.side, self.side, 3), dtype=torch.uint8, generator=generator)
        return [Image.fromarray(pixels.numpy())] * self.has_image


class ToyBenchmark:
    name = "gqa"

    def __init__(self, system: str | None = None) -> None:
        self.system = system

    def settings(self, protocol: str = "llava") -> GenerationSettings:
        return GenerationSettings(MAX_NEW_TOKENS, self.system)

    def has_answers(self, items) -> bool:
        return any(item.answer is not None for item in items)


def with_answers(items, predictions: dict[str, str]) -> list[ToyItem]:
    """Items of which those of even number are answered right."""
    wrong = "surely wrong"
    right = {item.id: predictions[item.id].lower().rstrip(".") for item in items}
    return [replace(item, answer=wrong if item.number % 2 else right[item.id]) for item in items]
