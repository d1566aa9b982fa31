"""Reading statistics out of a stock model while it runs.

Forward hooks, there for one forward pass only, pick up the queries and keys of each layer and the input of its
``down_proj``. The model keeps its own fast attention: only the rows of text queries behind the image are computed a
second time, and summed at once, so memory grows with (text tokens x tokens), in chunks, never with tokens squared.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from yopo_train.errors import UserError
from yopo_train.models import family_of
from yopo_train.models.base import rotate
from yopo_train.models.prompt import real_tokens, visual_mask
from yopo_train.plan import ModelDims

CHUNK = 2**24
"""Attention weights held at a time (float32: 64 MiB)."""


@dataclass
class Sample:
    """Where things are in one sequence of the batch; padding is left out everywhere.

    Parameters
    ----------
    row
        Row of the batch.
    keys
        Positions of all tokens, ``(tokens,)``.
    queries
        Positions of the text tokens behind the first visual token, ``(queries,)``.
    is_visual
        Which of ``keys`` are visual tokens, bool ``(tokens,)``.
    """

    row: int
    keys: Tensor
    queries: Tensor
    is_visual: Tensor


@dataclass
class Observation:
    """What one forward pass showed, one entry a layer.

    ``visual`` and ``other``: attention mass of the text queries on visual and on all other keys, ``(samples, heads)``.
    ``activation``: sum of ``|hidden|`` over all visual tokens, ``(channels,)``.
    """

    visual: list[Tensor] = field(default_factory=list)
    other: list[Tensor] = field(default_factory=list)
    activation: list[Tensor] = field(default_factory=list)


def find_samples(model: nn.Module, inputs: Mapping[str, Any], names: list[str]) -> list[Sample]:
    """The samples of a batch that hold visual tokens.

    Parameters
    ----------
    inputs
        The model's inputs; ``input_ids`` and ``attention_mask`` are ``(batch, tokens)``.
    names
        What errors call the samples.

    Raises
    ------
    UserError
        An image without any text behind it, which leaves nothing to measure.
    """
    valid, visual = real_tokens(inputs), visual_mask(model, inputs)
    samples = []
    for row in visual.any(dim=1).nonzero().flatten().tolist():
        keys = valid[row].nonzero().flatten()
        behind = valid[row] & ~visual[row] & (visual[row].cumsum(0) > 0)
        if not behind.any():
            raise UserError(f"calibration sample {names[row]} has no text behind its image, expected a question")
        samples.append(Sample(row, keys, behind.nonzero().flatten(), visual[row, keys]))
    return samples


@contextmanager
def observing(model: nn.Module, samples: list[Sample]) -> Iterator[Observation]:
    """Watch one forward pass: hooks on entry, none left on exit.

    Yields
    ------
    Observation
        Filled in while the model runs.
    """
    family = family_of(model)
    dims = family.dims(model.config)
    observation, handles = Observation(), []
    try:
        for layer in family.text_model(model).layers:
            handles += _watch_attention(layer.self_attn, dims, samples, observation)
            handles.append(layer.mlp.down_proj.register_forward_pre_hook(_watch_channels(samples, observation)))
        yield observation
    finally:
        for handle in handles:
            handle.remove()


def weight_norms(model: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """Norms of what a head, a channel, and a channel's output weigh.

    Returns
    -------
    heads
        Frobenius norm of the head's rows of ``W_q`` and columns of ``W_o``, float32 ``(layers, heads)``.
    channels
        Norm of the channel's rows of ``W_gate`` and ``W_up`` and column of ``W_down``, float32 ``(layers, channels)``.
    columns
        Norm of the column of ``W_down`` alone, float32 ``(layers, channels)``.
    """
    family = family_of(model)
    dims = family.dims(model.config)
    heads, channels, columns = [], [], []
    for layer in family.text_model(model).layers:
        attention, mlp = layer.self_attn, layer.mlp
        query = _norm(attention.q_proj.weight, dim=1).view(dims.heads, dims.head_dim)
        output = _norm(attention.o_proj.weight, dim=0).view(dims.heads, dims.head_dim)
        gate, up, down = _norm(mlp.gate_proj.weight, 1), _norm(mlp.up_proj.weight, 1), _norm(mlp.down_proj.weight, 0)
        heads.append((query.square() + output.square()).sum(dim=1).sqrt())
        channels.append((gate.square() + up.square() + down.square()).sqrt())
        columns.append(down)
    return stack_layers(heads), stack_layers(channels), stack_layers(columns)


def stack_layers(values: list[Tensor], dim: int = 0) -> Tensor:
    """One tensor a layer, stacked along ``dim`` on one device (a model may be spread over several)."""
    return torch.stack([value.to(values[0].device) for value in values], dim=dim)


def _watch_attention(attention: nn.Module, dims: ModelDims, samples: list[Sample], into: Observation) -> list:
    """Hooks on one attention module: keep the projections' outputs until the module returns, then sum and forget."""
    projected: dict[str, Tensor] = {}

    def keep(name: str):
        return lambda module, args, output: projected.__setitem__(name, output)

    def measure(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        queries, keys = projected.pop("q"), projected.pop("k")
        # one set of positions may serve the whole batch
        cos, sin = (part.expand(len(queries), -1, -1) for part in kwargs["position_embeddings"])
        masses = []
        for sample in samples:
            row, positions = sample.row, (sample.queries, sample.keys)
            query, key = (
                rotate(
                    states[row, where].float().view(len(where), -1, dims.head_dim),
                    cos[row, where].float(),
                    sin[row, where].float(),
                )
                for states, where in zip((queries, keys), positions, strict=True)
            )
            masses.append(attention_mass(query * module.scaling, key, sample))
        visual, other = torch.stack(masses).unbind(dim=-1)
        into.visual.append(visual)
        into.other.append(other)

    return [
        attention.q_proj.register_forward_hook(keep("q")),
        attention.k_proj.register_forward_hook(keep("k")),
        attention.register_forward_hook(measure, with_kwargs=True),
    ]


def attention_mass(query: Tensor, key: Tensor, sample: Sample) -> Tensor:
    """Causal attention of a sample's text queries, summed over the queries, on visual and on all other keys.

    Parameters
    ----------
    query
        Rotated and scaled, ``(queries, heads, head_dim)``.
    key
        Rotated, ``(tokens, kv_heads, head_dim)``.

    Returns
    -------
    Tensor
        ``(heads, 2)``: mass on visual keys, mass on other keys; in the type of the query, under autocast too.
    """
    heads, kv_heads = query.shape[1], key.shape[1]
    query = query.unflatten(1, (kv_heads, heads // kv_heads)).permute(1, 2, 0, 3)  # (kv_heads, group, queries, dim)
    key = key.permute(1, 2, 0).unsqueeze(1)  # (kv_heads, 1, dim, tokens)
    kinds = torch.stack((sample.is_visual, ~sample.is_visual), dim=1).to(query)
    total = query.new_zeros(heads, 2)
    step = max(1, CHUNK // (heads * len(sample.keys)))
    for start in range(0, len(sample.queries), step):
        chunk = slice(start, start + step)
        future = sample.keys > sample.queries[chunk, None]
        with torch.autocast(query.device.type, enabled=False):  # mixed precision would round both products
            weights = (query[:, :, chunk] @ key).masked_fill_(future, -torch.inf).softmax(dim=-1)
            total += (weights.sum(dim=2) @ kinds).flatten(0, 1)
    return total


def _watch_channels(samples: list[Sample], into: Observation):
    """A pre-hook for ``down_proj``: sum ``|hidden|`` over the visual tokens."""

    def measure(module: nn.Module, args: tuple) -> None:
        hidden = args[0]
        rows = (hidden[sample.row, sample.keys[sample.is_visual]] for sample in samples)
        into.activation.append(sum(tokens.abs().sum(dim=0, dtype=torch.float32) for tokens in rows))

    return measure


def _norm(weight: Tensor, dim: int) -> Tensor:
    return torch.linalg.vector_norm(weight.detach(), dim=dim, dtype=torch.float32)
