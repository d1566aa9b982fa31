"""The reference backend: the base model's own layers with masks. Slow and obvious, the truth for ``compact``.

Nothing is skipped: every head, channel and token is computed, and what a plan forbids is masked out. With
``semantics: official`` it computes what the authors' released code does (``modeling_llama_prune.py``): the neighbor
window, before the softmax, looks ahead as well as back; heads and depth are masked after it without renormalising; and
visual tokens live on behind the visual depth, where nothing reads their values but their keys keep their share.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from ..errors import UserError
from ..models.rotary import KEY, QUERY, placed, rotations
from ..plan import PruningPlan
from .layout import VisualTokens


def token_grid(visual: VisualTokens) -> Tensor:
    """Place of every visual token: ``(batch, tokens, 4)`` of image, frame, row, column; -1 elsewhere."""
    batch, tokens = visual.mask.shape
    places = torch.full((batch, tokens, 4), -1, device=visual.mask.device)
    for sample, images in enumerate(visual.grids):
        cells = [
            torch.cartesian_prod(torch.tensor([number]), *(torch.arange(size) for size in grid))
            for number, grid in enumerate(images)
        ]
        if cells:
            places[sample, visual.mask[sample]] = torch.cat(cells).to(places.device)
    return places


class Masks:
    """Which query sees which key, bool ``(batch, queries, keys)``, for one batch."""

    def __init__(self, real: Tensor, visual: VisualTokens | None, radius: int | None, official: bool):
        tokens = real.shape[1]
        self.visual = visual.mask & real if visual is not None else torch.zeros_like(real)
        ahead = torch.ones(tokens, tokens, dtype=torch.bool, device=real.device).tril()
        self.base = ahead & real[:, None, :]
        self.window = torch.zeros_like(self.base)
        both = self.visual[:, :, None] & self.visual[:, None, :]
        if visual is not None and radius is not None:
            place = token_grid(visual)
            same = (place[:, :, None, :2] == place[:, None, :, :2]).all(-1)
            near = (place[:, :, None, 2:] - place[:, None, :, 2:]).abs().amax(-1) <= radius
            self.window = both & same & near
        if official and radius is not None:
            self.base = (self.base & ~both) | self.window
        self.active = self.base if radius is None else self.base & (~both | self.window)
        self.text_keys = self.base & ~self.visual[:, None, :]
        self.text_only = self.base & ~self.visual[:, None, :] & ~self.visual[:, :, None]


def text_model_forward(
    self: nn.Module,
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    past_key_values=None,
    inputs_embeds: Tensor | None = None,
    use_cache: bool | None = None,
    visual_tokens: VisualTokens | None = None,
    visual_pos_masks: Tensor | None = None,
    deepstack_visual_embeds: list[Tensor] | None = None,
    **kwargs,
) -> BaseModelOutputWithPast:
    """Forward of the text model under a plan, without a KV cache; shapes are those of the base model."""
    filled = past_key_values is not None and past_key_values.get_seq_length() > 0
    if filled or (use_cache and not self.training):
        raise UserError("the reference backend keeps no KV cache, expected use_cache=False")
    state = self.yopo_state
    hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
    batch, tokens = hidden.shape[:2]
    real = torch.ones(batch, tokens, device=hidden.device) if attention_mask is None else attention_mask
    official = state.plan.semantics == "official"
    last = (len(self.layers) if official else state.plan.depth) - 1
    masks = Masks(real.bool(), visual_tokens, state.plan.radius, official)
    rope = rotations(self, hidden, position_ids, past=0)
    for number, layer in enumerate(self.layers):
        hidden = _layer(layer, hidden, number, state.plan, masks, rope, official)
        if deepstack_visual_embeds is not None and number < len(deepstack_visual_embeds):  # Qwen3-VL
            hidden = self._deepstack_process(hidden, visual_pos_masks, deepstack_visual_embeds[number])
        if number >= last and state.prunes:
            hidden = hidden.masked_fill(masks.visual[:, :, None], 0.0)
    return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden))


def _layer(layer: nn.Module, hidden: Tensor, number: int, plan: PruningPlan, masks: Masks, rope, official) -> Tensor:
    heads = plan.heads[number].to(hidden.device)
    active = masks.active if number < plan.depth else masks.text_keys
    seen = torch.where(heads[:, None, None], active[:, None], masks.text_only[:, None])
    hidden = hidden + _attention(layer.self_attn, layer.input_layernorm(hidden), seen, masks, rope, official)
    x = layer.post_attention_layernorm(hidden)
    inner = layer.mlp.act_fn(layer.mlp.gate_proj(x)) * layer.mlp.up_proj(x)
    dropped = masks.visual[:, :, None] & ~plan.channels[number].to(hidden.device)
    return hidden + layer.mlp.down_proj(inner.masked_fill(dropped, 0.0))


def _attention(self: nn.Module, x: Tensor, seen: Tensor, masks: Masks, rope, official: bool) -> Tensor:
    """``seen`` is bool ``(batch, heads or 1, queries, keys)``; a query that sees nothing gives zeros."""
    batch, tokens = x.shape[:2]
    q, k, v = (
        projection(x).view(batch, tokens, -1, self.head_dim).transpose(1, 2)
        for projection in (self.q_proj, self.k_proj, self.v_proj)
    )
    cos, sin = (part.flatten(0, 1) for part in rope)
    q, k = (
        placed(self, kind, part.transpose(1, 2).flatten(0, 1), cos, sin)
        .view(batch, tokens, -1, self.head_dim)
        .transpose(1, 2)
        for kind, part in ((QUERY, q), (KEY, k))
    )
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = q @ k.transpose(2, 3) * self.scaling
    before = masks.base[:, None] if official else seen
    weights = scores.masked_fill(~before, float("-inf")).softmax(-1, dtype=torch.float32).to(x.dtype)
    weights = weights.nan_to_num(0.0).masked_fill(~seen, 0.0)
    return self.o_proj((weights @ v).transpose(1, 2).reshape(batch, tokens, -1))
