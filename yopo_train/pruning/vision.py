"""The vision tower computes no layer behind the one that the projector reads.

In LLaVA-1.5 that is the last layer of 24. It is left out within ``get_image_features`` only, which alone knows which
layer is read; whoever calls the tower itself gets all of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps

import torch
from torch import Tensor, nn

from ..models import Family


def features_without_unread_layers(core: nn.Module, family: Family) -> Callable:
    """A ``get_image_features`` for the multimodal core that leaves out the layers that nobody reads.

    The image features are bit-equal. Of the tower's own outputs, ``last_hidden_state`` and the hidden states of layers
    left out are None. Ask for ``output_hidden_states`` or a plain tuple, and everything is computed.
    """
    method = type(core).get_image_features
    signature = inspect.signature(method)

    @wraps(method)  # `generate` reads its signature
    @torch.compiler.disable(recursive=False)  # exchanges methods; what it calls may be compiled
    def get_image_features(self, *args, **kwargs):
        original = self.yopo_state.original(self, "get_image_features")
        given = signature.bind(self, *args, **kwargs).arguments
        options = {**given, **given.get("kwargs", {})}
        as_tuple = options.get("return_dict", getattr(self.config, "return_dict", True)) is False
        unread = [] if as_tuple or options.get("output_hidden_states") else family.unread_vision_layers(self, options)
        with _left_out(unread):
            outputs = original(*args, **kwargs)
        if unread:
            outputs["last_hidden_state"] = None
            hidden = outputs.get("hidden_states")
            if hidden is not None:
                outputs["hidden_states"] = (*hidden[: len(hidden) - len(unread)], *[None] * len(unread))
        return outputs

    return get_image_features


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
