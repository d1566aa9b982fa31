"""Reading statistics out of a stock model while it runs.

Forward hooks, there for one forward pass only, pick up the queries and keys of each layer and the input of its
``down_proj``. The model keeps its own fast attention: only the rows of text queries behind the image and of a few
visual queries are computed a second time, and summed at once, so memory grows with (those rows x tokens), in chunks,
never with tokens squared.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from yopo_train.calibration.neighbor_mass import DISTANCES
from yopo_train.calibration.samples import Sample
from yopo_train.errors import UserError
from yopo_train.models import family_of
from yopo_train.models.rotary import KEY, QUERY, placed
from yopo_train.plan import ModelDims

CHUNK = 2**24
"""Attention weights held at a time (float32: 64 MiB)."""


@dataclass
class Observation:
    """What one forward pass showed, one entry a layer.

    Parameters
    ----------
    samples
        Where to look.
    valid
        Tokens that are not padding, bool ``(batch, tokens)``.

    Attributes
    ----------
    visual, other
        Attention mass of the text queries on visual and on all other keys, ``(samples, heads)``.
    near
        Attention of the sampled visual queries by distance, ``(DISTANCES,)``.
    activation
        Sum of ``|hidden|`` over all visual tokens, ``(channels,)``.
    finite
        Whether all numbers of a row are finite, bool ``(batch,)``: what enters layer 0, and what each layer gives.
    """

    samples: list[Sample]
    valid: Tensor
    visual: list[Tensor] = field(default_factory=list)
    other: list[Tensor] = field(default_factory=list)
    near: list[Tensor] = field(default_factory=list)
    activation: list[Tensor] = field(default_factory=list)
    finite: list[Tensor] = field(default_factory=list)

    def check(self, names: list[str]) -> None:
        """Raise a ``UserError`` that names the first layer, and the sample, whose activations are not finite."""
        finite = stack_layers(self.finite)
        if finite.all():
            return
        entry, row = (~finite).nonzero()[0].tolist()
        place = f"in layer {entry - 1}" if entry else "before layer 0 (vision tower, projector or embeddings)"
        raise UserError(f"calibration sample {names[row]}: activations are not finite {place}")

    def check_finite(self, hidden: Tensor) -> None:
        """Note whether what is between two layers, ``(batch, tokens, hidden)``, is finite."""
        # isfinite() of all numbers is ten times slower for bfloat16 on a CPU
        finite = hidden.amax(dim=-1).isfinite() & hidden.amin(dim=-1).isfinite()
        self.finite.append((finite | ~self.valid.to(finite.device)).all(dim=1))


@contextmanager
def observing(model: nn.Module, observation: Observation) -> Iterator[None]:
    """Watch one forward pass: hooks on entry, none left on exit."""
    family = family_of(model)
    layers, handles = family.text_model(model).layers, []
    try:
        handles.append(layers[0].register_forward_pre_hook(lambda module, args: observation.check_finite(args[0])))
        for layer in layers:
            handles += watch_layer(layer, family.dims(model.config), observation)
        yield
    finally:
        for handle in handles:
            handle.remove()


def watch_layer(layer: nn.Module, dims: ModelDims, into: Observation) -> list:
    """Hooks on one decoder layer that add an entry to each of the observation's lists; gives their handles."""
    return [
        *_watch_attention(layer.self_attn, dims, into),
        layer.mlp.down_proj.register_forward_pre_hook(_watch_channels(into)),
        layer.register_forward_hook(lambda module, args, output: into.check_finite(output)),
    ]


def stack_layers(values: list[Tensor], dim: int = 0) -> Tensor:
    """One tensor a layer, stacked along ``dim`` on one device (a model may be spread over several)."""
    return torch.stack([value.to(values[0].device) for value in values], dim=dim)


def _watch_attention(attention: nn.Module, dims: ModelDims, into: Observation) -> list:
    """Hooks on one attention module: keep the projections' outputs until the module returns, then sum and forget."""
    projected: dict[str, Tensor] = {}

    def keep(name: str):
        return lambda module, args, output: projected.__setitem__(name, output)

    def measure(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        queries, keys = projected.pop("q"), projected.pop("k")
        # one set of positions may serve the whole batch
        cos, sin = (part.to(queries.device).expand(len(queries), -1, -1) for part in kwargs["position_embeddings"])

        def rotated(kind: str, states: Tensor, row: int, where: Tensor) -> Tensor:
            heads = states[row, where].float().view(len(where), -1, dims.head_dim)
            return placed(module, kind, heads, cos[row, where].float(), sin[row, where].float())

        masses, near = [], queries.new_zeros(DISTANCES, dtype=torch.float32)
        for sample in into.samples:
            sample = sample.to(queries.device)
            key = rotated(KEY, keys, sample.row, sample.keys)
            query = rotated(QUERY, queries, sample.row, sample.text_queries) * module.scaling
            masses.append(text_mass(query, key, sample))
            query = rotated(QUERY, queries, sample.row, sample.visual_queries) * module.scaling
            near += neighbor_mass(query, key, sample)
        visual, other = torch.stack(masses).unbind(dim=-1)
        into.visual.append(visual)
        into.other.append(other)
        into.near.append(near)

    return [
        attention.q_proj.register_forward_hook(keep("q")),
        attention.k_proj.register_forward_hook(keep("k")),
        attention.register_forward_hook(measure, with_kwargs=True),
    ]


def text_mass(query: Tensor, key: Tensor, sample: Sample) -> Tensor:
    """Causal attention of a sample's text queries, summed over the queries, on visual and on all other keys.

    Parameters
    ----------
    query
        Rotated and scaled, ``(text queries, heads, head_dim)``.
    key
        Rotated, ``(tokens, kv_heads, head_dim)``.

    Returns
    -------
    Tensor
        ``(heads, 2)``: mass on visual keys, mass on other keys; in the type of the query, under autocast too.
    """
    kinds = torch.stack((sample.is_visual, ~sample.is_visual), dim=1).to(query)
    total = query.new_zeros(query.shape[1], 2)
    for _, weights in _weights(query, key, sample.text_queries, sample.keys):
        with torch.autocast(query.device.type, enabled=False):
            total += weights.sum(dim=1) @ kinds
    return total


def neighbor_mass(query: Tensor, key: Tensor, sample: Sample) -> Tensor:
    """Causal attention of a sample's visual queries on keys of their own image and frame, by grid distance.

    Parameters
    ----------
    query, key
        As in `text_mass`; the queries are the sampled visual ones.

    Returns
    -------
    Tensor
        Summed over queries and heads, ``(DISTANCES,)``.
    """
    total = query.new_zeros(DISTANCES + 1)  # the last entry takes keys that are not of the image
    for chunk, weights in _weights(query, key, sample.visual_queries, sample.keys):
        distances = sample.distances[chunk]
        bins = torch.where(distances < 0, DISTANCES, distances.clamp(max=DISTANCES - 1))
        total.scatter_add_(0, bins.flatten(), weights.sum(dim=0).flatten())
    return total[:DISTANCES]


def _weights(query: Tensor, key: Tensor, queries: Tensor, keys: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Attention weights chunk by chunk: which queries, and ``(heads, queries in the chunk, tokens)``.

    ``queries`` and ``keys`` are the positions of the rows of ``query`` and ``key``.
    """
    heads, kv_heads = query.shape[1], key.shape[1]
    query = query.unflatten(1, (kv_heads, heads // kv_heads)).permute(1, 2, 0, 3)  # (kv_heads, group, queries, dim)
    key = key.permute(1, 2, 0).unsqueeze(1)  # (kv_heads, 1, dim, tokens)
    step = max(1, CHUNK // (heads * len(keys)))
    for start in range(0, len(queries), step):
        chunk = slice(start, start + step)
        future = keys > queries[chunk, None]
        with torch.autocast(query.device.type, enabled=False):  # mixed precision would round the product
            weights = (query[:, :, chunk] @ key).masked_fill_(future, -torch.inf).softmax(dim=-1)
        yield chunk, weights.flatten(0, 1)


def _watch_channels(into: Observation):
    """A pre-hook for ``down_proj``: sum ``|hidden|`` over the visual tokens."""

    def measure(module: nn.Module, args: tuple) -> None:
        hidden = args[0]
        rows = (hidden[sample.row, sample.visual.to(hidden.device)] for sample in into.samples)
        into.activation.append(sum(tokens.abs().sum(dim=0, dtype=torch.float32) for tokens in rows))

    return measure
