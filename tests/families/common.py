"""What the toys of all families share."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

PAD, BOS, EOS = 0, 1, 2
FIRST_TEXT, LAST_TEXT = 3, 79
"""Ids of ordinary text; placeholders and markers lie above."""
VOCABULARY = 99

Part = int | str | tuple


def large(model: nn.Module, std: float = 0.15) -> nn.Module:
    """Weights large enough that every mechanism changes the output; norms and biases keep some spread, too."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=std)
        elif name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
        elif name.endswith(("q_norm.weight", "k_norm.weight")):
            nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()


def prompts(
    samples: Sequence[Sequence[Part]],
    visual_ids: Callable[[Part, torch.Generator], list[int]],
    padding: str,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """``input_ids`` and ``attention_mask`` of samples.

    Parameters
    ----------
    visual_ids
        Tokens of one image or video, its markers included.
    """
    rows = []
    for sample in samples:
        row = []
        for part in sample:
            row += text_ids(part, generator) if isinstance(part, int) else visual_ids(part, generator)
        rows.append(row)
    longest = max(map(len, rows))
    pads = [[PAD] * (longest - len(row)) for row in rows]
    join = (lambda row, pad: pad + row) if padding == "left" else (lambda row, pad: row + pad)
    ones = [join([1] * len(row), [0] * len(pad)) for row, pad in zip(rows, pads, strict=True)]
    ids = torch.tensor([join(row, pad) for row, pad in zip(rows, pads, strict=True)])
    return {"input_ids": ids, "attention_mask": torch.tensor(ones)}


def text_ids(count: int, generator: torch.Generator) -> list[int]:
    """Ordinary text."""
    return torch.randint(FIRST_TEXT, LAST_TEXT + 1, (count,), generator=generator).tolist()


def text_config(**overrides) -> dict:
    """Fields of the language model: four layers, four query heads and two KV heads."""
    fields = {
        "hidden_size": 48,
        "intermediate_size": 56,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }
    return {**fields, **overrides}


def media(samples: Sequence[Sequence[Part]], kind: str) -> list[tuple[int, ...]]:
    """Sizes of all images or videos of a batch, in order; an image that names no size has none."""
    parts = [part if isinstance(part, tuple) else (part,) for sample in samples for part in sample]
    return [part[1:] for part in parts if part[0] == kind]
