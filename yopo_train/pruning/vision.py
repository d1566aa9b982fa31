"""What a pruned model does differently when it encodes images or videos: two things that change no features.

The vision tower computes no layer behind the one that the projector reads. In LLaVA-1.5 that is the last layer of 24.
It is left out within ``get_image_features`` only, which alone knows which layer is read; whoever calls the tower itself
gets all of it.

Features remember the inputs that tell their images' sizes. ``generate`` encodes images first, and then calls the model
with the features instead of pixels *and* sizes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from ..models import Family
from ..models.base import PIXELS
from .state import PruneState

KEPT = "yopo_described_by"
"""Attribute of an image's features: the image's row of each input in `Family.described_by`. It stays with them when
``generate`` repeats the features for several answers."""


def replace_encoders(core: nn.Module, family: Family, state: PruneState) -> None:
    """Put methods of ours in place of the multimodal core's ``get_image_features`` and ``get_video_features``."""
    for modality in PIXELS:
        kept, skips = family.described_by.get(modality, ()), modality == "image" and state.backend == "compact"
        if kept or skips:
            name = f"get_{modality}_features"
            state.replace(core, name, _encoder(getattr(type(core), name), family, kept, skips))


def kept_inputs(family: Family, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Inputs that describe images, of those that a call lacks because its images were encoded before."""
    found = {}
    for modality, names in family.described_by.items():
        encoded = (inputs.get("mm_encoder_outputs") or {}).get(modality)
        for name in names if encoded is not None else ():
            rows = [getattr(feature, KEPT, {}).get(name) for feature in encoded.pooler_output]
            if inputs.get(name) is None and rows and all(row is not None for row in rows):
                found[name] = torch.stack(rows)
    return found


def _encoder(method: Callable, family: Family, kept: Sequence[str], skips: bool) -> Callable:
    """A method that does both.

    The image features are bit-equal. Of the tower's own outputs, ``last_hidden_state`` and the hidden states of layers
    left out are None. Ask for ``output_hidden_states`` or a plain tuple, and everything is computed.
    """
    signature = inspect.signature(method)

    @wraps(method)  # `generate` reads its signature
    @torch.compiler.disable(recursive=False)  # exchanges methods; what it calls may be compiled
    def encode(self, *args, **kwargs):
        original = self.yopo_state.original(self, method.__name__)
        given = signature.bind(self, *args, **kwargs).arguments
        options = {**given, **given.get("kwargs", {})}
        as_tuple = options.get("return_dict", getattr(self.config, "return_dict", True)) is False
        everything = as_tuple or options.get("output_hidden_states") or not skips
        unread = [] if everything else family.unread_vision_layers(self, options)
        with _left_out(unread):
            outputs = original(*args, **kwargs)
        if unread:
            outputs["last_hidden_state"] = None
            hidden = outputs.get("hidden_states")
            if hidden is not None:
                outputs["hidden_states"] = (*hidden[: len(hidden) - len(unread)], *[None] * len(unread))
        described = {name: options[name] for name in kept if options.get(name) is not None}
        if described and not as_tuple:
            for number, feature in enumerate(outputs.pooler_output):
                setattr(feature, KEPT, {name: rows[number] for name, rows in described.items()})
        return outputs

    return encode


@contextmanager
def _left_out(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Layers are still called, so that the tower counts as many hidden states as ever, but hand their input on."""
    before = [vars(layer).get("forward") for layer in layers]
    try:
        for layer in layers:
            layer.forward = _hand_on
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward


def _hand_on(hidden: Tensor, *args, **kwargs) -> Tensor:
    return hidden
