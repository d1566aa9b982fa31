"""The KV cache of a pruned model: visual keys only where an active head reads them.

A layer keeps two pairs of tensors. *Shared* KV heads, which an active head needs, hold ``[visual; text]`` keys; the
other KV heads hold text only. From the visual depth on all KV heads are of the second kind. Every layer is a
``transformers`` cache layer, so beam search, assisted decoding and continued chats work on it as on any other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

from ..errors import UserError
from .layout import TokenLayout


class CacheIndex:
    """Which position of the sequence each cached key belongs to; -1 is an empty slot.

    ``visual`` is ``(batch, visual slots)``, ``text`` is ``(batch, text slots)``; ``seen`` counts all positions so far,
    padding included, as ``generate`` does.
    """

    def __init__(self, visual: Tensor, text: Tensor, seen: int, ragged: bool):
        self.visual, self.text, self.seen, self.ragged = visual, text, seen, ragged

    @classmethod
    def of(cls, layout: TokenLayout, past: CacheIndex | None = None) -> CacheIndex:
        """The index after a forward pass, which adds its tokens to the past ones."""
        visual, text, seen = layout.visual_positions, layout.text_positions, layout.past + layout.tokens
        ragged = not (layout.visual.uniform and layout.text.uniform)
        if past is not None:
            visual, text = torch.cat((past.visual, visual), 1), torch.cat((past.text, text), 1)
            ragged = ragged or past.ragged
        return cls(visual, text, seen, ragged)

    def select(self, indices: Tensor) -> CacheIndex:
        """Other samples, or the same in another order."""
        indices = indices.to(self.text.device)
        return CacheIndex(self.visual[indices], self.text[indices], self.seen, self.ragged)

    def crop(self, seen: int) -> CacheIndex:
        """Forget positions ``>= seen``; trailing slots that no sample uses are dropped."""
        visual, text = (torch.where(slots < seen, slots, -1) for slots in (self.visual, self.text))
        visual, text = visual[:, : _used(visual)], text[:, : _used(text)]
        ragged = bool((visual < 0).any() or (text < 0).any())
        return CacheIndex(visual, text, seen, ragged)


def _used(slots: Tensor) -> int:
    used = (slots >= 0).any(0).nonzero()
    return int(used.max()) + 1 if len(used) else 0


class CompactCacheLayer(CacheLayerMixin):
    """Keys and values of one layer.

    Attributes
    ----------
    keys, values : Tensor
        ``(batch, shared KV heads, visual + text slots, head_dim)``.
    rest_keys, rest_values : Tensor
        ``(batch, other KV heads, text slots, head_dim)``.
    """

    is_croppable = True
    is_sliding = False
    supports_early_init = False
    PARTS = ("keys", "values", "rest_keys", "rest_values")

    def __init__(self, tag: str):
        super().__init__()
        self.tag = tag
        self.slots = 0  # visual slots in `keys`
        self.rest_keys: Tensor | None = None
        self.rest_values: Tensor | None = None
        self.index: CacheIndex | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to prepare: :meth:`extend` takes the first tensors as they are."""

    def update(self, *args, **kwargs):
        raise UserError("this KV cache belongs to a pruned model: the unpruned model cannot continue it")

    def extend(self, index: CacheIndex, visual: Sequence[Tensor] | None, text: Sequence[Tensor]) -> None:
        """Add this pass's keys and values.

        Parameters
        ----------
        index : CacheIndex
            The index *after* this pass.
        visual : sequence of Tensor or None
            New visual keys and values ``(batch, shared KV heads, new visual slots, head_dim)``; None: there are none.
        text : sequence of Tensor
            New text keys and values of the shared KV heads, then of the others, ``(batch, ·, new slots, head_dim)``.
        """
        new_visual = (None, None) if visual is None else visual
        if not self.is_initialized:
            self.keys, self.values = text[:2] if visual is None else map(_behind, visual, text[:2])
            self.rest_keys, self.rest_values = text[2:]
            self.is_initialized = True
        else:
            self.keys = _insert(self.keys, self.slots, new_visual[0], text[0])
            self.values = _insert(self.values, self.slots, new_visual[1], text[1])
            self.rest_keys = _behind(self.rest_keys, text[2])
            self.rest_values = _behind(self.rest_values, text[3])
        self.slots += 0 if visual is None else visual[0].shape[2]
        self.index = index

    @property
    def text(self) -> tuple[Tensor, Tensor]:
        """Text keys and values of the shared KV heads."""
        return self.keys[:, :, self.slots :], self.values[:, :, self.slots :]

    def get_seq_length(self) -> int:
        """Positions seen so far, padding and pruned visual tokens included."""
        return self.index.seen if self.is_initialized else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of a mask over all positions."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """No maximum."""
        return -1

    def get_max_cache_shape(self) -> int:
        """No maximum (the name in older releases)."""
        return -1

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` positions; a positive number is the length to keep, as it once was."""
        if not self.is_initialized or tokens_to_remove == 0:
            return
        keep = tokens_to_remove if tokens_to_remove > 0 else self.index.seen + tokens_to_remove
        if keep >= self.index.seen:
            return
        self.index = self.index.crop(max(keep, 0))
        visual, text = min(self.slots, self.index.visual.shape[1]), self.index.text.shape[1]
        self.keys, self.values = (
            torch.cat((x[:, :, :visual], x[:, :, self.slots : self.slots + text]), 2) for x in (self.keys, self.values)
        )
        self.rest_keys, self.rest_values = self.rest_keys[:, :, :text], self.rest_values[:, :, :text]
        self.slots = visual

    def reset(self) -> None:
        """Empty the layer."""
        self.keys = self.values = self.rest_keys = self.rest_values = self.index = None
        self.slots, self.is_initialized = 0, False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder samples for beam search."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the given samples."""
        if self.is_initialized:
            for part in self.PARTS:
                tensor = getattr(self, part)
                setattr(self, part, tensor.index_select(0, indices.to(tensor.device)))
            self.index = self.index.select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sample."""
        if self.is_initialized:
            device = self.keys.device
            self.batch_select_indices(torch.arange(len(self.keys), device=device).repeat_interleave(repeats))

    def offload(self) -> None:
        """Move the layer to the CPU."""
        self._move("cpu")

    def prefetch(self) -> None:
        """Move the layer back to the device that its index stayed on."""
        if self.is_initialized:
            self._move(self.index.text.device)

    def _move(self, device) -> None:
        if self.is_initialized:
            for part in self.PARTS:
                setattr(self, part, getattr(self, part).to(device, non_blocking=True))


def _behind(old: Tensor, new: Tensor) -> Tensor:
    """New slots behind the old ones. Where there are no heads nothing is kept, and no kernel is launched for it."""
    return torch.cat((old, new), 2) if old.shape[1] else new


def _insert(old: Tensor, slots: int, visual: Tensor | None, text: Tensor) -> Tensor:
    """``[visual; text]`` with new slots behind each part."""
    if visual is None or not old.shape[1]:
        return _behind(old, text)
    return torch.cat((old[:, :, :slots], visual, old[:, :, slots:], text), 2)


def compact_cache(cache: Cache | None, layers: int, tag: str) -> Cache:
    """A cache with compact layers: a new one, or the given one, whose layers are exchanged while it is empty.

    Raises
    ------
    UserError
        For a cache that another plan or the unpruned model filled, or of a type that keeps keys in its own way.
    """
    if cache is None:
        return Cache(layers=[CompactCacheLayer(tag) for _ in range(layers)])
    if all(isinstance(layer, CompactCacheLayer) for layer in cache.layers) and cache.layers:
        if cache.get_seq_length() and cache.layers[0].tag != tag:
            raise UserError(f"the KV cache was filled under plan {cache.layers[0].tag}, the model now runs {tag}")
        if cache.get_seq_length():
            return cache
    elif cache.get_seq_length():
        raise UserError("the KV cache was filled by the unpruned model, expected an empty one or one of this plan")
    elif not isinstance(cache, DynamicCache) and type(cache) is not Cache:
        # a static one: `generate` has made masks of whole sequences for it, which say nothing about padding any more
        raise UserError(
            f"a {type(cache).__name__} cannot hold a pruned model's keys, expected a DynamicCache "
            "(generate without cache_implementation)"
        )
    cache.layers = [CompactCacheLayer(tag) for _ in range(layers)]
    cache.layer_class_to_replicate = None
    return cache
