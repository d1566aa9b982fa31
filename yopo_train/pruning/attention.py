"""Attention of packed tokens: who sees whom under a plan, and which kernel call computes it.

===========================  ====================================================================
text queries, active heads    text and visual keys up to their own position
text queries, other heads     text keys up to their own position
visual queries, active heads  text keys before them and the visual keys of their neighborhood
===========================  ====================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .cache import CacheIndex, CompactCacheLayer
from .heads import HeadGroups
from .layout import Ragged, SequenceOrder, TokenLayout
from .windows import window_groups


@dataclass
class Heads:
    """Query, key or value states in two parts.

    ``shared`` is ``(visual + text, active heads, head_dim)`` of all packed tokens, ``rest`` is
    ``(text, other heads, head_dim)``.
    """

    shared: Tensor
    rest: Tensor


class AttentionPass:
    """What all layers of one forward pass share: masks and windows, each made once when first needed.

    Parameters
    ----------
    layout : TokenLayout
        The tokens of this pass.
    radius : int or None
        Neighbor radius of the plan.
    past : CacheIndex or None
        What the cache holds already.
    scaling : float
        Factor of the attention scores.
    """

    def __init__(self, layout: TokenLayout, radius: int | None, past: CacheIndex | None, scaling: float):
        self.layout, self.radius, self.scaling = layout, radius, scaling
        self.fresh = past is None
        self.index = CacheIndex.of(layout, past)
        self._memo: dict[str, object] = {}

    def _once(self, name: str, make):
        if name not in self._memo:
            self._memo[name] = make()
        return self._memo[name]

    @property
    def sequence(self) -> SequenceOrder:
        """Visual and text tokens in one row again."""
        return self._once("sequence", lambda: SequenceOrder(self.layout))

    @property
    def windows(self):
        """Pairs of window group and bool mask."""
        return self._once("windows", self._make_windows)

    def _make_windows(self):
        device = self.layout.index.device
        positions = self.layout.positions[: self.layout.n_visual]
        groups = window_groups(self.layout.grids, self.radius, device)
        return [(group, group.mask(positions, self.index.text)) for group in groups]

    def mask(self, queries: str, keys: str) -> Tensor | None:
        """Bool ``(batch, 1, queries, keys)`` or None where every query sees every key; ``keys``: text or both."""
        return self._once(f"{queries}-{keys}", lambda: self._make_mask(queries, keys))

    def _make_mask(self, queries: str, keys: str) -> Tensor | None:
        query = self.layout.text_positions if queries == "text" else self.layout.visual_positions
        key = self.index.text if keys == "text" else torch.cat((self.index.visual, self.index.text), 1)
        if query.shape[1] == 1 and self.layout.n_visual == 0 and not self.index.ragged:
            return None  # one new token and nothing else: all that is cached came before it
        query, key = query[:, :, None], key[:, None, :]
        return ((key >= 0) & (key <= query) | (query < 0)).unsqueeze(1)

    def sdpa(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Scaled dot-product attention, ``(batch, heads, tokens, head_dim)`` each."""
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=self.scaling)


def attend(
    state: AttentionPass,
    q: Heads,
    k: Heads,
    v: Heads,
    groups: tuple[HeadGroups | None, HeadGroups | None],
    store: CompactCacheLayer,
) -> Heads:
    """Attention output of one layer.

    Parameters
    ----------
    q, k, v : Heads
        Rotated queries and keys, and values. ``q.shared`` may hold the text rows only: then visual tokens ask nothing.
    groups : pair of HeadGroups or None
        KV heads that the active and the other query heads read; None: each its own.
    store : CompactCacheLayer
        The layer's cache, or an empty one that is thrown away.

    Returns
    -------
    Heads
        ``shared`` with the rows of ``q.shared``, and ``rest``.
    """
    layout, active = state.layout, q.shared.shape[1]
    n_visual = len(k.shared) - layout.n_text
    asking = len(q.shared) - layout.n_text
    _remember(state, k, v, n_visual, store)
    first, others = groups
    rest = _text_sees_text(state, q.rest, others, store)
    if active == 0:
        return Heads(q.shared, rest)
    if asking and state.fresh and state.radius is None:
        shared = _all_see_all(state, q.shared, *(_pick(x.shared, first) for x in (k, v)))
        return Heads(shared, rest)
    shared = _text_sees_both(state, q.shared[asking:], first, store)
    if asking:
        visual = [_pick(x.shared[:n_visual], first) for x in (k, v)]
        shared = torch.cat((_visual_sees(state, q.shared[:asking], visual, first, store), shared))
    return Heads(shared, rest)


def _remember(state: AttentionPass, k: Heads, v: Heads, n_visual: int, store: CompactCacheLayer) -> None:
    layout, visual = state.layout, None
    if n_visual:  # of this layer: heads that see no visual token have none to keep either
        visual = [_by_head(layout.visual.pad(x.shared[:n_visual])) for x in (k, v)]
    text = [layout.text.pad(x) for x in (k.shared[n_visual:], v.shared[n_visual:], k.rest, v.rest)]
    store.extend(state.index, visual, [_by_head(x) for x in text])


def _text_sees_text(state: AttentionPass, q: Tensor, groups: HeadGroups | None, store: CompactCacheLayer) -> Tensor:
    """Causal attention among text tokens: heads that see no visual token."""
    if q.numel() == 0:
        return q
    keys, values = store.rest_keys, store.rest_values
    if groups is not None and store.keys.shape[1]:  # of all KV heads, in the layer's order
        pairs = zip(store.text, (keys, values), strict=True)
        keys, values = (torch.cat(pair, 1) for pair in pairs) if keys.shape[1] else store.text
    mask = None if state.fresh else state.mask("text", "text")
    return _ask(state, state.layout.text, q, keys, values, groups, mask, causal=state.fresh)


def _text_sees_both(state: AttentionPass, q: Tensor, groups: HeadGroups | None, store: CompactCacheLayer) -> Tensor:
    """Text queries of active heads."""
    if q.numel() == 0:
        return q
    return _ask(state, state.layout.text, q, store.keys, store.values, groups, state.mask("text", "both"))


def _ask(
    state: AttentionPass,
    tokens: Ragged,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    groups: HeadGroups | None,
    mask: Tensor | None,
    causal: bool = False,
) -> Tensor:
    """Packed queries against padded keys and values ``(batch, KV heads, slots, head_dim)``."""
    q = _by_head(tokens.pad(q))
    if groups is not None and q.shape[2] == 1:  # a lone query sees no key of this pass but its own: nothing is causal
        out = groups.unfold(state.sdpa(groups.fold(q, keys.shape[1]), keys, values, mask))
    else:
        out = state.sdpa(q, _pick(keys, groups), _pick(values, groups), mask, causal)
    return tokens.unpad(_by_head(out))


def _all_see_all(state: AttentionPass, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Plain causal attention in the order of the sequence: active heads without a neighbor radius."""
    q, k, v = (_by_head(state.sequence.pad(x)) for x in (q, k, v))
    return state.sequence.unpad(_by_head(state.sdpa(q, k, v, causal=True)))


def _visual_sees(
    state: AttentionPass, q: Tensor, visual: list[Tensor], groups: HeadGroups | None, store: CompactCacheLayer
) -> Tensor:
    """Visual queries: their neighborhood, or all earlier tokens where the plan has no radius."""
    if state.radius is None:
        mask = state.mask("visual", "both")
        return _ask(state, state.layout.visual, q, store.keys, store.values, groups, mask)
    text = [_pick(x, groups) for x in store.text]
    outputs = []
    for group, mask in state.windows:
        keys, values = (group.keys(x, t) for x, t in zip(visual, text, strict=True))
        outputs.append(group.tokens(state.sdpa(group.queries(q), keys, values, mask)))
    if len(outputs) == 1:
        return outputs[0]
    place = torch.cat([group.index for group, _ in state.windows]).argsort()
    return torch.cat(outputs)[place]


def _pick(x: Tensor, groups: HeadGroups | None) -> Tensor:
    """KV heads as the query heads read them; heads are dimension 1."""
    return x if groups is None else groups.pick(x)


def _by_head(x: Tensor) -> Tensor:
    """``(batch, tokens, heads, head_dim)`` to ``(batch, heads, tokens, head_dim)`` and back."""
    return x.transpose(1, 2)
