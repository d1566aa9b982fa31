"""Calibrating a model that is larger than the device: all samples pass a layer before the next layer is loaded.

A plain pass loads every layer's weights for each batch. Here only what comes before the layers (vision tower, projector
and embeddings) runs batch by batch; then each layer is loaded once, measured on all batches, and freed. Kept are the
hidden states between two layers, on the CPU: memory grows with the tokens of the calibration set.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from yopo_train.calibration.collect import Observation, watch_layer
from yopo_train.calibration.weight_norms import WeightNorms
from yopo_train.models import family_of
from yopo_train.models.offload import moved, resident


@dataclass
class PausedPass:
    """A forward pass that has stopped before the next layer.

    Parameters
    ----------
    hidden
        What enters that layer, ``(batch, tokens, hidden)``, on the CPU.
    arguments
        The text model's other arguments, on the CPU: attention mask, position ids, ...
    device
        Where the text model takes its inputs.
    observation
        What the layers so far have shown.
    """

    hidden: Tensor
    arguments: dict[str, Any]
    device: Any
    observation: Observation

    def arguments_of(self, layer: int) -> dict[str, Any]:
        """The text model's arguments, on its device, where this layer is its only one.

        Qwen3-VL adds the i-th set of the vision tower's features behind the i-th layer.
        """
        arguments, features = self.arguments, self.arguments.get("deepstack_visual_embeds")
        if features is not None:
            arguments = {**arguments, "deepstack_visual_embeds": features[layer : layer + 1] or None}
        return moved(arguments, self.device)


class _Reached(Exception):
    """The text model was called; carries its arguments."""


def pause_before_layers(model: nn.Module, inputs: dict[str, Any], observation: Observation) -> PausedPass:
    """Run what comes before the language model's layers."""
    family = family_of(model)

    def stop(module: nn.Module, args: tuple, kwargs: dict) -> None:
        raise _Reached(kwargs)

    handle = family.text_model(model).register_forward_pre_hook(stop, with_kwargs=True)
    try:
        family.core(model)(**inputs, use_cache=False)
        raise RuntimeError("the multimodal model did not call its text model")
    except _Reached as reached:
        arguments = dict(reached.args[0])
    finally:
        handle.remove()
    hidden = arguments.pop("inputs_embeds")
    observation.check_finite(hidden)
    return PausedPass(hidden.cpu(), moved(arguments, "cpu"), hidden.device, observation)


def run_layers(model: nn.Module, passes: list[PausedPass]) -> WeightNorms:
    """Take all passes through all layers; their observations fill up.

    Returns
    -------
    WeightNorms
        Of all layers, read while each was loaded.
    """
    family = family_of(model)
    text, dims, norms = family.text_model(model), family.dims(model.config), []
    for number, layer in enumerate(text.layers):
        with resident(layer), _only_layer(text, layer):
            norms.append(WeightNorms.of_layer(layer, dims))
            for paused in passes:
                handles = watch_layer(layer, dims, paused.observation)
                try:
                    hidden = paused.hidden.to(paused.device)
                    paused.hidden = text(inputs_embeds=hidden, **paused.arguments_of(number)).last_hidden_state.cpu()
                finally:
                    for handle in handles:
                        handle.remove()
    return WeightNorms.stack(norms)


@contextmanager
def _only_layer(text: nn.Module, layer: nn.Module) -> Iterator[None]:
    """Within this context the text model has one layer and no norm behind it.

    It is still its own forward that makes masks and rotary embeddings for the layer.
    """
    layers, norm = text.layers, text.norm
    text.layers, text.norm = nn.ModuleList([layer]), nn.Identity()
    try:
        yield
    finally:
        text.layers, text.norm = layers, norm
