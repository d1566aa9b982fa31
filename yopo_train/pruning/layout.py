"""Where the tokens of a batch go: packed order, and the padded views that attention works on.

The engine works on *packed* tokens, ``[all visual tokens of the batch; all text tokens of the batch]``, each part in
the order of samples and positions. Padding is not among them, so no linear layer ever computes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..models import Grid


@dataclass(frozen=True)
class VisualTokens:
    """What the engine is told about a batch: ``mask`` bool ``(batch, tokens)`` and the grids of each sample."""

    mask: Tensor
    grids: list[list[Grid]]


class Ragged:
    """Moves ragged rows between packed ``(total, ...)`` and padded ``(batch, longest, ...)``.

    Rows stand left-justified, padding at the right repeats row 0 and must be masked or dropped by the user. Where all
    samples have the same number of rows both directions are views.
    """

    def __init__(self, counts: list[int], device: torch.device):
        self.counts = counts
        self.longest = max(counts, default=0)
        self.total = sum(counts)
        self.uniform = all(count == self.longest for count in counts)
        if not self.uniform:
            length = torch.tensor(counts, device=device)
            column = torch.arange(self.longest, device=device)
            self.valid = column < length[:, None]
            start = length.cumsum(0) - length
            self._pad = torch.where(self.valid, start[:, None] + column, 0).flatten()
            self._unpad = self.valid.flatten().nonzero().squeeze(1)

    def pad(self, packed: Tensor) -> Tensor:
        """``(total, ...)`` to ``(batch, longest, ...)``."""
        shape = (len(self.counts), self.longest, *packed.shape[1:])
        if self.uniform or self.total == 0:
            return packed.reshape(shape) if self.uniform else packed.new_zeros(shape)
        return packed.index_select(0, self._pad).view(shape)

    def unpad(self, padded: Tensor) -> Tensor:
        """``(batch, longest, ...)`` to ``(total, ...)``."""
        flat = padded.reshape(-1, *padded.shape[2:])
        return flat if self.uniform else flat.index_select(0, self._unpad)

    def pad_positions(self, packed: Tensor) -> Tensor:
        """Positions ``(total,)`` to ``(batch, longest)`` with -1 where there is no row."""
        padded = self.pad(packed)
        return padded if self.uniform else padded.masked_fill(~self.valid, -1)


class TokenLayout:
    """Packed order of one forward pass.

    Parameters
    ----------
    attention_mask : Tensor
        Bool ``(batch, tokens)``: False is padding.
    visual : VisualTokens or None
        None: every token is text.
    past : int
        Positions that the KV cache has already seen; column ``c`` of this pass is position ``past + c``.

    Attributes
    ----------
    index : Tensor
        ``(visual + text,)`` place of each packed token in the flattened ``(batch * tokens)`` input.
    positions : Tensor
        ``(visual + text,)`` position of each packed token in its sequence, padding counted.
    """

    def __init__(self, attention_mask: Tensor, visual: VisualTokens | None, past: int = 0):
        self.batch, self.tokens = attention_mask.shape
        device = attention_mask.device
        self.past = past
        self.grids = visual.grids if visual is not None else [[] for _ in range(self.batch)]
        if visual is None:  # one wait for the device: this also runs for every new token
            counts = [[0] * self.batch, attention_mask.sum(1).tolist()]
        else:
            visual_mask = visual.mask & attention_mask
            attention_mask = attention_mask & ~visual_mask
            counts = torch.stack((visual_mask.sum(1), attention_mask.sum(1))).tolist()
        self.visual, self.text = Ragged(counts[0], device), Ragged(counts[1], device)
        self.n_visual, self.n_text = self.visual.total, self.text.total
        self.in_order = self.n_text == self.batch * self.tokens  # nothing to pick: packing is a view
        if self.in_order:
            self.index = torch.arange(self.n_text, device=device)
        else:
            self.index = attention_mask.flatten().nonzero().squeeze(1)
        if self.n_visual:
            self.index = torch.cat((visual_mask.flatten().nonzero().squeeze(1), self.index))
        self.positions = self.index % self.tokens + past

    @property
    def visual_positions(self) -> Tensor:
        """``(batch, most visual tokens)``, -1 where there is none."""
        return self.visual.pad_positions(self.positions[: self.n_visual])

    @property
    def text_positions(self) -> Tensor:
        """``(batch, most text tokens)``, -1 where there is none."""
        return self.text.pad_positions(self.positions[self.n_visual :])

    def pack(self, x: Tensor) -> Tensor:
        """``(batch, tokens, ...)`` to packed ``(visual + text, ...)``."""
        x = x.reshape(-1, *x.shape[2:])
        return x if self.in_order else x.index_select(0, self.index)

    def unpack(self, packed: Tensor) -> Tensor:
        """Packed back to ``(batch, tokens, ...)``; zeros at padding, and at visual positions once they are gone."""
        if self.in_order:
            return packed.reshape(self.batch, self.tokens, *packed.shape[1:])
        index = self.index if packed.shape[0] == len(self.index) else self.index[self.n_visual :]
        flat = packed.new_zeros(self.batch * self.tokens, *packed.shape[1:])
        return flat.index_copy(0, index, packed).view(self.batch, self.tokens, *packed.shape[1:])


class SequenceOrder:
    """Packed tokens in the order of their sequence, left-justified: plain causal attention needs no mask there.

    Real tokens never see the padding, because it comes after them.
    """

    def __init__(self, layout: TokenLayout):
        counts = [v + t for v, t in zip(layout.visual.counts, layout.text.counts, strict=True)]
        self.ragged = Ragged(counts, layout.index.device)
        self.order = layout.index.argsort()
        self.inverse = self.order.argsort()

    def pad(self, packed: Tensor) -> Tensor:
        """Packed ``(visual + text, ...)`` to ``(batch, longest, ...)``."""
        return self.ragged.pad(packed.index_select(0, self.order))

    def unpad(self, padded: Tensor) -> Tensor:
        """``(batch, longest, ...)`` to packed ``(visual + text, ...)``."""
        return self.ragged.unpad(padded).index_select(0, self.inverse)
