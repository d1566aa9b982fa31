"""Neighbor-aware attention of visual queries: blocks of grid rows against their own neighborhood, never N x N.

A block of ``R`` grid rows sees those rows and the ``r`` rows above them (later rows are not visible: attention is
causal), so its keys are a sliding window over the rows; a mask inside the block cuts the columns. Text keys before the
image are put in front. The cost per query is about ``(R + r) * columns`` instead of all visual tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models import Grid

BLOCK_TOKENS = 96  # queries in a block, about: smaller wastes the product, larger computes more masked pairs


class WindowGroup:
    """All frames of a batch that have the same number of rows and columns.

    Parameters
    ----------
    rows, columns : int
        The grid of one frame.
    samples, starts : list of int
        For each frame, its sample and its first token among the packed visual tokens.
    radius : int
        Neighbor radius.
    """

    def __init__(self, rows: int, columns: int, samples: list[int], starts: list[int], radius: int, device):
        self.rows, self.columns, self.radius = rows, columns, min(radius, rows - 1)
        self.block = min(rows, max(self.radius, BLOCK_TOKENS // columns, 1))
        self.blocks = -(-rows // self.block)
        self.samples = torch.tensor(samples, device=device)
        place = torch.arange(rows * columns, device=device)
        self.index = (torch.tensor(starts, device=device)[:, None] + place).flatten()
        self.allowed = self._neighbors(radius, device)

    def _neighbors(self, radius: int, device) -> Tensor:
        """Bool ``(blocks, block * columns, (block + r) * columns)``: which keys of its block a query sees."""
        first = torch.arange(self.blocks, device=device)[:, None] * self.block
        query_row = first + torch.arange(self.block, device=device)
        key_row = first - self.radius + torch.arange(self.block + self.radius, device=device)
        column = torch.arange(self.columns, device=device)
        down = query_row[:, :, None, None, None] - key_row[:, None, None, :, None]
        right = column[:, None, None] - column
        earlier = (down > 0) | ((down == 0) & (right >= 0))
        allowed = earlier & (down <= radius) & (right.abs() <= radius) & (key_row >= 0)[:, None, None, :, None]
        allowed = allowed | (query_row >= self.rows)[:, :, None, None, None]  # padded rows must not come out as NaN
        return allowed.reshape(self.blocks, self.block * self.columns, -1)

    def mask(self, positions: Tensor, text_positions: Tensor) -> Tensor:
        """Bool ``(frames * blocks, 1, queries, text + keys)``; positions are those of the packed visual tokens."""
        frames = len(self.samples)
        query = F.pad(positions[self.index].view(frames, -1), (0, self._bottom * self.columns))
        query = query.view(frames, self.blocks, -1, 1)
        text = text_positions[self.samples][:, None, None, :]
        before = (text >= 0) & (text < query)
        neighbors = self.allowed.expand(frames, *self.allowed.shape)
        return torch.cat((before, neighbors), dim=-1).flatten(0, 1).unsqueeze(1)

    @property
    def _bottom(self) -> int:
        return self.blocks * self.block - self.rows

    def queries(self, x: Tensor) -> Tensor:
        """Packed visual ``(visual, heads, head_dim)`` to ``(frames * blocks, heads, block * columns, head_dim)``."""
        x = x[self.index].view(-1, self.rows, self.columns, *x.shape[1:])
        x = F.pad(x, (0, 0, 0, 0, 0, 0, 0, self._bottom))
        x = x.view(-1, self.blocks, self.block * self.columns, *x.shape[3:])
        return x.flatten(0, 1).transpose(1, 2)

    def keys(self, x: Tensor, text: Tensor) -> Tensor:
        """Text ``(batch, heads, text, head_dim)`` and packed visual keys (or values) side by side for every block."""
        heads, head_dim = x.shape[1:]
        x = x[self.index].view(-1, self.rows, self.columns, heads, head_dim)
        x = F.pad(x, (0, 0, 0, 0, 0, 0, self.radius, self._bottom))
        x = x.unfold(1, self.block + self.radius, self.block)  # (frames, blocks, columns, heads, head_dim, rows)
        x = x.permute(0, 1, 3, 5, 2, 4).flatten(0, 1).flatten(2, 3)
        text = text[self.samples].repeat_interleave(self.blocks, dim=0)
        return torch.cat((text, x), dim=2)

    def tokens(self, x: Tensor) -> Tensor:
        """Outputs of :meth:`queries`' shape back to ``(frames * rows * columns, heads, head_dim)``."""
        heads, head_dim = x.shape[1], x.shape[3]
        x = x.transpose(1, 2).reshape(len(self.samples), -1, heads, head_dim)
        return x[:, : self.rows * self.columns].flatten(0, 1)


def window_groups(grids: list[list[Grid]], radius: int, device) -> list[WindowGroup]:
    """Frames of a batch grouped by the shape of their grid."""
    frames: dict[tuple[int, int], tuple[list[int], list[int]]] = {}
    start = 0
    for sample, images in enumerate(grids):
        for count, rows, columns in images:
            for _ in range(count):
                samples, starts = frames.setdefault((rows, columns), ([], []))
                samples.append(sample)
                starts.append(start)
                start += rows * columns
    return [WindowGroup(*shape, *where, radius, device) for shape, where in frames.items()]
