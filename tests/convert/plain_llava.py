"""LLaVA-1.5 computed by hand from the original's tensors, and pruned as YOPO's authors' code does it."""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from convert.llava_original import CLIP_HEADS, HEADS, LAYERS, PATCH, WIDTH


@dataclass
class Pruned:
    """What ``modeling_llama_prune.py`` is told: its fields, and the head mask ``(LAYERS, HEADS)``."""

    heads: torch.Tensor
    attncut_w: int
    layercut_num: int
    mlpcut_ratio: int


def clip_states(t, pixels):
    """CLIP's hidden states from the tensors of its own checkpoint."""
    t = {name.removeprefix("vision_model."): value for name, value in t.items()}

    def linear(x, name):
        return F.linear(x, t[f"{name}.weight"], t[f"{name}.bias"])

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"], 1e-5)

    x = F.conv2d(pixels, t["embeddings.patch_embedding.weight"], stride=PATCH).flatten(2).transpose(1, 2)
    x = torch.cat([t["embeddings.class_embedding"].expand(len(x), 1, -1), x], dim=1)
    states = [norm(x + t["embeddings.position_embedding.weight"], "pre_layrnorm")]
    for layer in range(3):
        start, x = f"encoder.layers.{layer}.", states[-1]
        q, k, v = (
            linear(norm(x, f"{start}layer_norm1"), f"{start}self_attn.{name}_proj")
            .unflatten(-1, (CLIP_HEADS, -1))
            .transpose(1, 2)
            for name in "qkv"
        )
        mixed = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(-1) @ v
        x = x + linear(mixed.transpose(1, 2).flatten(2), f"{start}self_attn.out_proj")
        hidden = linear(norm(x, f"{start}layer_norm2"), f"{start}mlp.fc1")
        states.append(x + linear(hidden * torch.sigmoid(1.702 * hidden), f"{start}mlp.fc2"))
    return states


def image_features(t, pixels):
    """``(tokens, hidden)`` of one image."""
    features = clip_states(t, pixels)[-2][0, 1:]
    features = F.gelu(F.linear(features, t["model.mm_projector.0.weight"], t["model.mm_projector.0.bias"]))
    return F.linear(features, t["model.mm_projector.2.weight"], t["model.mm_projector.2.bias"])


def near(tokens, window):
    """The authors' ``local_mask``: pairs of a square image's tokens in each other's window, in both directions."""
    side = math.isqrt(tokens)
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    return ((places[:, None] - places[None]).abs() <= int((window - 1) / 2)).all(-1)


def original_logits(t, before, after, pixels, pruned=None):
    """Logits of ``before``, the image's 16 tokens and ``after``, from the original's tensors."""
    features, table = image_features(t, pixels), t["model.embed_tokens.weight"]
    x = torch.cat([table[before], features, table[after]])
    tokens, dim = len(x), x.shape[-1] // HEADS
    image = slice(len(before), len(before) + len(features))
    angles = torch.outer(torch.arange(tokens).float(), 10000.0 ** -(torch.arange(0, dim, 2) / dim)).repeat(1, 2)
    hidden_keys = torch.ones(tokens, tokens).triu(1).bool()
    if pruned is not None:
        hidden_keys[image, image] = ~near(len(features), pruned.attncut_w)

    def norm(x, name):
        return t[f"{name}.weight"] * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)

    def turn(x):
        first, second = x.chunk(2, dim=-1)
        return x * angles.cos() + torch.cat([-second, first], dim=-1) * angles.sin()

    for layer in range(LAYERS):
        start = f"model.layers.{layer}."
        normed = norm(x, f"{start}input_layernorm")
        q, k, v = (
            (normed @ t[f"{start}self_attn.{name}_proj.weight"].T).unflatten(-1, (HEADS, dim)).transpose(0, 1)
            for name in "qkv"
        )
        scores = turn(q) @ turn(k).transpose(1, 2) / math.sqrt(dim)
        weights = scores.masked_fill(hidden_keys, -math.inf).softmax(-1)
        if pruned is not None:  # after the softmax, and the visual tokens go on behind the last visual layer
            weights[:, :, image] *= pruned.heads[layer][:, None, None] * (layer < pruned.layercut_num)
        mixed = weights @ v
        if pruned is not None:
            mixed[:, image] *= pruned.heads[layer][:, None, None]
        x = x + mixed.transpose(0, 1).flatten(1) @ t[f"{start}self_attn.o_proj.weight"].T
        normed = norm(x, f"{start}post_attention_layernorm")
        gate, up = (normed @ t[f"{start}mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        if pruned is not None:
            gate[image, int(WIDTH / pruned.mlpcut_ratio) :] = 0
        x = x + (F.silu(gate) * up) @ t[f"{start}mlp.down_proj.weight"].T
    return norm(x, "model.norm") @ t["lm_head.weight"].T
