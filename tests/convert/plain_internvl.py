"""InternVL-2.0 computed by hand from the original's tensors: the truth for what the converter writes."""

import math

import torch
from torch.nn import functional as F

from convert.internvl_original import GROUP, HEAD_DIM, HEADS, KV_HEADS, LAYERS, PATCH, VIT, VIT_HEADS, VIT_LAYERS


def rms_norm(x, weight, eps):
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


# -- vision -----------------------------------------------------------------------------------------------------------
def vision_states(tensors, config, pixels):
    """The tower's hidden states, embeddings first: list of ``(tiles, patches + 1, VIT)``."""
    vision = config["vision_config"]
    t = {name.removeprefix("vision_model."): value for name, value in tensors.items()}

    def norm(x, name):
        if vision["norm_type"] == "rms_norm":
            return rms_norm(x, t[f"{name}.weight"], vision["layer_norm_eps"])
        return F.layer_norm(x, (VIT,), t[f"{name}.weight"], t[f"{name}.bias"], vision["layer_norm_eps"])

    patches = F.conv2d(pixels, t["embeddings.patch_embedding.weight"], t["embeddings.patch_embedding.bias"], PATCH)
    x = patches.flatten(2).transpose(1, 2)
    x = torch.cat([t["embeddings.class_embedding"].expand(len(x), -1, -1), x], dim=1)
    states = [x + t["embeddings.position_embedding"]]
    for layer in range(VIT_LAYERS):
        start, x = f"encoder.layers.{layer}.", states[-1]
        qkv = F.linear(norm(x, f"{start}norm1"), t[f"{start}attn.qkv.weight"], t.get(f"{start}attn.qkv.bias"))
        q, k, v = qkv.split(VIT, dim=-1)
        if vision["qk_normalization"]:
            q = rms_norm(q, t[f"{start}attn.q_norm.weight"], 1e-6)
            k = rms_norm(k, t[f"{start}attn.k_norm.weight"], 1e-6)
        q, k, v = (part.unflatten(-1, (VIT_HEADS, -1)).transpose(1, 2) for part in (q, k, v))
        weights = (q @ k.transpose(2, 3) / math.sqrt(VIT // VIT_HEADS)).softmax(dim=-1)
        mixed = (weights @ v).transpose(1, 2).flatten(2)
        x = x + t[f"{start}ls1"] * F.linear(mixed, t[f"{start}attn.proj.weight"], t[f"{start}attn.proj.bias"])
        hidden = F.gelu(F.linear(norm(x, f"{start}norm2"), t[f"{start}mlp.fc1.weight"], t[f"{start}mlp.fc1.bias"]))
        states.append(x + t[f"{start}ls2"] * F.linear(hidden, t[f"{start}mlp.fc2.weight"], t[f"{start}mlp.fc2.bias"]))
    return states


def visual_tokens(tensors, config, pixels):
    """``(tiles, tokens, HIDDEN)``; the token in row r and column c has the patches of a 2 x 2 square side by side."""
    x = vision_states(tensors, config, pixels)[config["select_layer"]][:, 1:]
    side = math.isqrt(x.shape[1])
    x = x.unflatten(1, (side, side))
    rows = []
    for r in range(side // 2):
        for c in range(side // 2):
            square = [x[:, 2 * r + i, 2 * c + j] for i in range(2) for j in range(2)]
            rows.append(torch.cat(square, dim=-1))
    x = torch.stack(rows, dim=1)
    x = F.layer_norm(x, x.shape[-1:], tensors["mlp1.0.weight"], tensors["mlp1.0.bias"], 1e-5)
    x = F.gelu(F.linear(x, tensors["mlp1.1.weight"], tensors["mlp1.1.bias"]))
    return F.linear(x, tensors["mlp1.3.weight"], tensors["mlp1.3.bias"])


# -- language ---------------------------------------------------------------------------------------------------------
def frequencies(llm, tokens):
    """Inverse frequencies and the factor of cos and sin, for a text of so many tokens."""
    base, exponents = float(llm["rope_theta"]), torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM
    limit, scaling = llm["max_position_embeddings"], llm.get("rope_scaling")
    if scaling and scaling["type"] == "dynamic" and tokens > limit:
        factor = scaling["factor"]
        base *= (factor * tokens / limit - (factor - 1)) ** (HEAD_DIM / (HEAD_DIM - 2))
    if scaling and scaling["type"] in ("su", "longrope"):
        original = llm["original_max_position_embeddings"]
        chosen = scaling["long_factor"] if tokens > original else scaling["short_factor"]
        scale = math.sqrt(1 + math.log(limit / original) / math.log(original))
        return 1 / (torch.tensor(chosen) * base**exponents), scale
    return 1 / base**exponents, 1.0


def rotate(x, positions, llm):
    """``x`` is ``(tokens, HEAD_DIM)``."""
    inverse, scale = frequencies(llm, len(x))
    angles = torch.outer(positions, inverse).repeat(1, 2)
    half = HEAD_DIM // 2
    turned = torch.cat([-x[:, half:], x[:, :half]], dim=-1)
    return (x * angles.cos() + turned * angles.sin()) * scale


def heads_of(kind, t, start, x):
    """Each query head with the key and value head that it reads, all ``(tokens, HEAD_DIM)``."""
    if kind == "internlm2":
        groups = F.linear(x, t[f"{start}attention.wqkv.weight"]).unflatten(-1, (KV_HEADS, GROUP + 2, HEAD_DIM))
        return [
            (groups[:, h // GROUP, h % GROUP], groups[:, h // GROUP, GROUP], groups[:, h // GROUP, GROUP + 1])
            for h in range(HEADS)
        ]
    if kind == "phi3":
        rows = F.linear(x, t[f"{start}self_attn.qkv_proj.weight"]).unflatten(-1, (HEADS + 2 * KV_HEADS, HEAD_DIM))
        return [(rows[:, h], rows[:, HEADS + h // GROUP], rows[:, HEADS + KV_HEADS + h // GROUP]) for h in range(HEADS)]
    q, k, v = (
        F.linear(x, t[f"{start}self_attn.{n}_proj.weight"], t.get(f"{start}self_attn.{n}_proj.bias")).unflatten(
            -1, (-1, HEAD_DIM)
        )
        for n in "qkv"
    )
    return [(q[:, h], k[:, h // GROUP], v[:, h // GROUP]) for h in range(HEADS)]


def ffn(kind, t, start, x):
    if kind == "internlm2":
        gate, up, down = (t[f"{start}feed_forward.{name}.weight"] for name in ("w1", "w3", "w2"))
    elif kind == "phi3":
        (gate, up), down = t[f"{start}mlp.gate_up_proj.weight"].chunk(2), t[f"{start}mlp.down_proj.weight"]
    else:
        gate, up, down = (t[f"{start}mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
    return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)


def logits(kind, tensors, config, ids, image_token, pixels=None):
    """``(tokens, vocabulary)`` of one sequence."""
    llm = config["llm_config"]
    t = {name.removeprefix("language_model."): value for name, value in tensors.items()}
    own = kind == "internlm2"
    names = (
        ("attention_norm", "ffn_norm", "attention.wo")
        if own
        else ("input_layernorm", "post_attention_layernorm", "self_attn.o_proj")
    )
    x = t["model.tok_embeddings.weight" if own else "model.embed_tokens.weight"][ids]
    if pixels is not None:
        x[ids == image_token] = visual_tokens(tensors, config, pixels).flatten(0, 1)
    positions, eps = torch.arange(len(ids)).float(), llm["rms_norm_eps"]
    future = torch.ones(len(ids), len(ids)).triu(1).bool()
    for layer in range(LAYERS):
        start = f"model.layers.{layer}."
        normed, mixed = rms_norm(x, t[f"{start}{names[0]}.weight"], eps), []
        for q, k, v in heads_of(kind, t, start, normed):
            scores = rotate(q, positions, llm) @ rotate(k, positions, llm).T / math.sqrt(HEAD_DIM)
            mixed.append(scores.masked_fill(future, -math.inf).softmax(dim=-1) @ v)
        x = x + F.linear(torch.cat(mixed, dim=-1), t[f"{start}{names[2]}.weight"])
        x = x + ffn(kind, t, start, rms_norm(x, t[f"{start}{names[1]}.weight"], eps))
    return F.linear(rms_norm(x, t["model.norm.weight"], eps), t["output.weight" if own else "lm_head.weight"])
