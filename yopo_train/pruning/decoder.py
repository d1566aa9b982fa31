"""The compact decoder: layers that compute for visual tokens only what the plan leaves.

These functions replace ``forward`` on the instances of one model's text model and decoder layers; the modules, their
parameters and their place in the model stay as they are, and a layer is still called as a module.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast

from ..errors import UserError
from ..models.rotary import KEY, QUERY, normed, placed, rotate, rotations
from .attention import AttentionPass, Heads, attend
from .cache import CompactCacheLayer, compact_cache
from .deepstack import Deepstack
from .heads import HeadGroups
from .layout import TokenLayout, VisualTokens
from .linear import ordered, split_columns, split_rows
from .order import CHANNELS, HEADS, KV_HEADS, LayerOrder
from .state import PruneState

CHECKPOINTS_IN_CALL = "__call__" in vars(GradientCheckpointingLayer)  # older releases; newer ones wrap `forward`


@dataclass
class LayerPass:
    """What a decoder layer is handed besides its hidden states.

    ``cos`` and ``sin`` are ``(visual + text, rotary_dim)``; ``order`` is None where the layer splits nothing (text
    only); ``last`` says that visual tokens leave behind nothing but keys and values.
    """

    attention: AttentionPass
    cos: Tensor
    sin: Tensor
    order: LayerOrder | None
    groups: tuple[HeadGroups | None, HeadGroups | None]
    last: bool
    store: CompactCacheLayer | None


def text_model_forward(
    self: nn.Module,
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    past_key_values: Cache | None = None,
    inputs_embeds: Tensor | None = None,
    use_cache: bool | None = None,
    visual_tokens: VisualTokens | None = None,
    visual_pos_masks: Tensor | None = None,
    deepstack_visual_embeds: list[Tensor] | None = None,
    **kwargs,
) -> BaseModelOutputWithPast:
    """Forward of a pruned text model; shapes in and out are those of the base model.

    ``visual_pos_masks`` and ``deepstack_visual_embeds`` come from Qwen3-VL alone, see `Deepstack`.
    """
    state: PruneState = self.yopo_state
    _refuse(kwargs, self.config)
    if inputs_embeds is None:
        inputs_embeds = self.embed_tokens(input_ids)
    cache = _cache_of(self, past_key_values, use_cache)
    past = cache.layers[0].index if cache is not None else None
    columns = _new_columns(attention_mask, *inputs_embeds.shape[:2], inputs_embeds.device)
    layout = TokenLayout(columns, visual_tokens, past.seen if past is not None else 0)
    attention = AttentionPass(layout, state.plan.radius, past, self.layers[0].self_attn.scaling)
    split = state.prunes and (layout.n_visual > 0 or cache is not None)

    hidden = layout.pack(inputs_embeds)
    cos, sin = map(layout.pack, rotations(self, inputs_embeds, position_ids, layout.past))
    deepstack = Deepstack.of(layout, visual_pos_masks, deepstack_visual_embeds)
    if state.plan.depth == 0:
        hidden, cos, sin = (x[layout.n_visual :] for x in (hidden, cos, sin))
    trail = [] if kwargs.get("output_hidden_states", self.config.output_hidden_states) else None
    for number, layer in enumerate(self.layers):
        if trail is not None:
            trail.append(layout.unpack(hidden))
        last = number == state.plan.depth - 1
        hidden = layer(
            hidden,
            layer_pass=LayerPass(
                attention,
                cos,
                sin,
                order=state.order(number, hidden.device) if split else None,
                groups=state.head_groups(number, split, hidden.device),
                last=last,
                store=cache.layers[number] if cache is not None else None,
            ),
        )
        if deepstack is not None:
            hidden = deepstack.add(hidden, number)
        if last and len(cos) > layout.n_text:
            cos, sin = cos[layout.n_visual :], sin[layout.n_visual :]
    hidden = layout.unpack(self.norm(hidden))
    if trail is not None:
        trail.append(hidden)
    return BaseModelOutputWithPast(
        last_hidden_state=hidden,
        past_key_values=cache,
        hidden_states=tuple(trail) if trail is not None else None,
    )


def _cache_of(self: nn.Module, past_key_values: Cache | None, use_cache: bool | None) -> Cache | None:
    """The KV cache that a call fills; None where it fills none."""
    if self.training and any(getattr(layer, "gradient_checkpointing", False) for layer in self.layers):
        if past_key_values is not None and past_key_values.get_seq_length():
            raise UserError("gradient checkpointing cannot continue a filled KV cache, expected past_key_values=None")
        return None
    wants_cache = self.config.use_cache and not self.training if use_cache is None else use_cache
    if not wants_cache and past_key_values is None:
        return None
    return compact_cache(past_key_values, len(self.layers), self.yopo_state.tag)


def layer_forward(self: nn.Module, hidden: Tensor, layer_pass: LayerPass) -> Tensor:
    """Forward of a pruned decoder layer: packed hidden states ``(visual + text, hidden)`` in and out.

    In the last layer that visual tokens reach, only the text rows come out.
    """
    if self.training and getattr(self, "gradient_checkpointing", False) and not CHECKPOINTS_IN_CALL:
        return self._gradient_checkpointing_func(partial(_layer, self, layer_pass=layer_pass), hidden)
    return _layer(self, hidden, layer_pass)


def _layer(self: nn.Module, hidden: Tensor, layer_pass: LayerPass) -> Tensor:
    n_visual = len(hidden) - layer_pass.attention.layout.n_text
    normed = self.input_layernorm(hidden)
    attended = _attention(self.self_attn, normed, n_visual, layer_pass)
    if layer_pass.last:
        hidden, n_visual = hidden[n_visual:], 0
    hidden = hidden + attended
    return hidden + _feed_forward(self.mlp, self.post_attention_layernorm(hidden), n_visual, layer_pass.order)


def _attention(self: nn.Module, x: Tensor, n_visual: int, layer_pass: LayerPass) -> Tensor:
    """Self-attention; ``(visual + text, hidden)`` in, the same out or, in the last visual layer, the text rows."""
    order = layer_pass.order
    active = order.active_heads if order else 0
    asking = 0 if layer_pass.last else n_visual
    if n_visual == 0 and not layer_pass.attention.fresh:
        q, k, v = _text_heads(self, x, layer_pass)
    else:
        q, k, v = _all_heads(self, x, n_visual, asking, layer_pass)
    store = layer_pass.store or CompactCacheLayer("")
    out = attend(layer_pass.attention, q, k, v, layer_pass.groups, store)
    if active == 0 and asking:
        out.shared = out.rest.new_zeros(asking + len(out.rest), 0)
    put_back = order.put_back(HEADS) if order else None
    return split_columns(self.o_proj, out.shared.flatten(1), out.rest.flatten(1), asking, put_back)


def _all_heads(self: nn.Module, x: Tensor, n_visual: int, asking: int, layer_pass: LayerPass) -> list[Heads]:
    """Rotated queries and keys, and values, of visual and text tokens."""
    order, cos, sin = layer_pass.order, layer_pass.cos, layer_pass.sin
    active, active_kv = (order.active_heads, order.active_kv_heads) if order else (0, 0)
    parts = []
    for projection, rows, heads, kind in (
        (self.q_proj, x[n_visual - asking :], active, HEADS),
        (self.k_proj, x, active_kv, KV_HEADS),
        (self.v_proj, x, active_kv, KV_HEADS),
    ):
        pick = order.pick(kind) if order else None
        split = split_rows(projection, rows, len(rows) - (len(x) - n_visual), heads * self.head_dim, pick)
        parts.append(Heads(*(part.unflatten(1, (-1, self.head_dim)) for part in split)))
    if active == 0:  # nothing of this layer's attention concerns visual tokens
        parts = [Heads(part.shared[len(part.shared) - len(part.rest) :], part.rest) for part in parts]
    for part, kind in zip(parts, (QUERY, KEY), strict=False):
        if part.shared.shape[1]:
            start = len(cos) - len(part.shared)
            part.shared = placed(self, kind, part.shared, cos[start:], sin[start:])
        part.rest = placed(self, kind, part.rest, cos[n_visual:], sin[n_visual:])
    return parts


def _text_heads(self: nn.Module, x: Tensor, layer_pass: LayerPass) -> list[Heads]:
    """The same of text tokens that continue a cache, with as few kernels as can be: they are a decoding step's cost."""
    order = layer_pass.order
    active, active_kv = (order.active_heads, order.active_kv_heads) if order else (0, 0)
    pick, pick_kv = (order.pick(HEADS), order.pick(KV_HEADS)) if order else (None, None)
    q, k, v = (
        ordered(projection(x), index).unflatten(1, (-1, self.head_dim))
        for projection, index in ((self.q_proj, pick), (self.k_proj, pick_kv), (self.v_proj, pick_kv))
    )
    heads = q.shape[1]
    both = rotate(torch.cat((normed(self, QUERY, q), normed(self, KEY, k)), 1), layer_pass.cos, layer_pass.sin)
    q, k = both[:, :heads], both[:, heads:]
    return [Heads(part[:, :n], part[:, n:]) for part, n in ((q, active), (k, active_kv), (v, active_kv))]


def _feed_forward(self: nn.Module, x: Tensor, n_visual: int, order: LayerOrder | None) -> Tensor:
    """FFN in which visual rows use the active channels only."""
    if n_visual == 0:
        return self(x)
    pick, put_back = order.pick(CHANNELS), order.put_back(CHANNELS)
    gate, gate_rest = split_rows(self.gate_proj, x, n_visual, order.active_channels, pick)
    up, up_rest = split_rows(self.up_proj, x, n_visual, order.active_channels, pick)
    return split_columns(self.down_proj, self.act_fn(gate) * up, self.act_fn(gate_rest) * up_rest, n_visual, put_back)


def _new_columns(attention_mask: Tensor | None, batch: int, tokens: int, device) -> Tensor:
    """The columns of this pass in the 2-D attention mask, as bool ``(batch, tokens)``."""
    if attention_mask is None:
        return torch.ones(batch, tokens, dtype=torch.bool, device=device)
    if attention_mask.dim() != 2:
        raise UserError(f"attention_mask has {attention_mask.dim()} dimensions, expected 2 (batch, tokens)")
    if attention_mask.shape[1] < tokens:
        raise UserError(f"attention_mask has {attention_mask.shape[1]} columns for {tokens} tokens")
    return attention_mask[:, -tokens:].bool()


def _refuse(kwargs: dict, config) -> None:
    if kwargs.get("output_attentions", config.output_attentions):
        raise UserError("output_attentions: the compact backend never builds attention matrices, expected False")
