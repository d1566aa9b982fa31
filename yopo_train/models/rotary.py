"""From the outputs of q_proj and k_proj to the queries and keys that attention compares: norms and rotations.

One place for the engine and for calibration. It covers every text model that :meth:`Family.check_text_model` lets
through: an RMS norm of each head where the attention has one (Qwen3), and rotations in the half-split layout of Llama.
With mRoPE (Qwen-VL) the text model's own ``rotary_emb`` has put the parts of time, row and column together already.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

QUERY, KEY = "q_norm", "k_norm"
"""What an attention module calls the norm of its queries and of its keys."""


def normed(attention: nn.Module, kind: str, x: Tensor) -> Tensor:
    """Each head normed where the attention does that; ``x`` is ``(..., head_dim)``, ``kind`` is `QUERY` or `KEY`."""
    norm = getattr(attention, kind, None)
    return x if norm is None else norm(x)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding in the half-split layout of Llama.

    ``x`` is ``(tokens, heads, head_dim)``, ``cos`` and ``sin`` are ``(tokens, head_dim)``.
    """
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def placed(attention: nn.Module, kind: str, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries or keys as attention compares them, from their projection ``(tokens, heads, head_dim)``."""
    return rotate(normed(attention, kind, x), cos, sin)


def rotations(text_model: nn.Module, hidden: Tensor, position_ids: Tensor | None, past: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of all tokens, ``(batch, tokens, head_dim)`` each.

    Parameters
    ----------
    text_model : nn.Module
        Its ``rotary_emb`` makes them.
    hidden : Tensor
        ``(batch, tokens, hidden)``, for its shape, type and device.
    position_ids : Tensor or None
        As the text model gets them: ``(batch, tokens)``, or with mRoPE also ``(3, batch, tokens)`` of time, row and
        column, or ``(4, batch, tokens)`` with those of the text, which place nothing, in front. They may begin with
        what a KV cache holds already: Qwen-VL derives them from the attention mask. None counts all tokens.
    past : int
        Tokens in front of these, for positions that are not given.
    """
    batch, tokens = hidden.shape[:2]
    if position_ids is None:
        position_ids = torch.arange(past, past + tokens, device=hidden.device).unsqueeze(0)
    elif position_ids.dim() == 3 and len(position_ids) == 4:
        position_ids = position_ids[1:]
    if position_ids.dim() == 2 and hasattr(text_model.rotary_emb, "mrope_section"):
        position_ids = position_ids.expand(3, -1, -1)  # as the text model does before it asks
    cos, sin = text_model.rotary_emb(hidden, position_ids=position_ids[..., -tokens:])
    return cos.expand(batch, -1, -1), sin.expand(batch, -1, -1)
