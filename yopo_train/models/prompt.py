"""The shape of a prompt: how many tokens of which kind stand where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..cost import Prompt
from . import family_of, unwrap


def prompt_of(model: nn.Module, batch: Mapping[str, Any]) -> Prompt:
    """The shape of the first prompt in a batch, for the cost formulas."""
    config, visual = unwrap(model).config, visual_mask(model, batch)
    grids = family_of(model).grids(config, visual, batch)[0]
    is_text = real_tokens(batch)[0] & ~visual[0]
    places = visual[0].nonzero().flatten().tolist()
    before, seen = [], 0
    for frames, rows, columns in grids:
        before.append(int(is_text[: places[seen]].sum()))
        seen += frames * rows * columns
    return Prompt(grids, int(is_text.sum()), before)


def visual_mask(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """Visual tokens of a batch, padding left out: bool ``(batch, tokens)``."""
    return family_of(model).visual_mask(unwrap(model).config, batch) & real_tokens(batch)


def real_tokens(batch: Mapping[str, Any]) -> Tensor:
    """Tokens that are not padding: bool ``(batch, tokens)``.

    The attention mask may begin with what a KV cache holds already. One of another form pads nothing here: refusing it
    is the model's business.
    """
    ids, mask = batch["input_ids"], batch.get("attention_mask")
    if isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[1] >= ids.shape[1]:
        return mask[:, -ids.shape[1] :].bool()
    return torch.ones_like(ids, dtype=torch.bool)
