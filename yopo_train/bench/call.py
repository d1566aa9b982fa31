"""One contender's call: from the images, or the language model alone; with the laps that are timed of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutputWithPast

from ..models import family_of, unwrap
from .timer import Measure, Stopwatch
from .whole_model import LAYER

Inputs = dict[str, Tensor]


class TimedCall:
    """A call up to the first token, and the tokens after it.

    Parameters
    ----------
    model : nn.Module
        Made into the contender whenever a measure runs.
    inputs : dict
        Model inputs.
    cached : bool
        Fill a KV cache.
    vision : bool
        False: whatever is in front of the language model runs once, untimed.
    decode : int
        Tokens to generate, with a KV cache only.
    by_layer : bool
        Also a lap a decoder layer.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, cached: bool, vision: bool, decode: int, by_layer: bool):
        self.model, self.inputs, self.cached, self.vision = model, inputs, cached, vision
        self.decode, self.by_layer = decode if cached else 0, by_layer

    def measures(self) -> list[Measure]:
        """A run with all laps; on a GPU, where waiting for each layer takes time, layers in a run of their own."""
        if not self.by_layer or next(self.model.parameters()).device.type == "cpu":
            return [lambda watch: self._answer(watch, self.by_layer)]
        return [lambda watch: self._answer(watch, False), self._layers]

    @torch.inference_mode()
    def run(self) -> CausalLMOutputWithPast:
        """Up to the first token's logits."""
        if self.vision:
            return self.model(**self.inputs, use_cache=self.cached, logits_to_keep=1)
        return self.language_model()

    @cached_property
    def language_model(self) -> Callable[[], CausalLMOutputWithPast]:
        """See `language_model_call`."""
        return language_model_call(self.model, self.inputs, self.cached)

    @torch.inference_mode()
    def _answer(self, watch: Stopwatch, by_layer: bool) -> None:
        layers = Stopwatch(watch.device)
        with layer_laps(self.model, layers) if by_layer else nullcontext():
            output = self._prefill(watch)
        for _ in range(self.decode):
            token = output.logits[:, -1:].argmax(-1)
            output = self.model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)
        if self.decode:
            watch.lap("decode", parts=self.decode)
        watch.laps |= layers.laps

    def _prefill(self, watch: Stopwatch) -> CausalLMOutputWithPast:
        if not self.vision:
            call = self.language_model
            watch.start()
            output = call()
            watch.lap("prefill")
            return output
        text_model = family_of(self.model).text_model(unwrap(self.model))
        border = text_model.register_forward_pre_hook(lambda *_: watch.lap("vision"))
        try:
            watch.start()
            output = self.run()
            watch.lap("prefill")
        finally:
            border.remove()
        watch.total("first_token")
        return output

    def _layers(self, watch: Stopwatch) -> None:
        with layer_laps(self.model, watch):
            self.run()


def language_model_call(
    model: nn.Module, inputs: Inputs, use_cache: bool = True
) -> Callable[[], CausalLMOutputWithPast]:
    """What ``model(**inputs)`` does from the first layer to the last token's logits, to be run by itself.

    Everything in front of it (vision tower, projector, embedding) runs once, now. It holds as long as the model keeps
    its plan; each run fills a new KV cache.
    """
    base, calls = unwrap(model), []
    text_model = family_of(model).text_model(base)

    class Reached(Exception):
        """Ends the call in front of the first layer."""

    def keep(_, args, kwargs):
        calls.append(kwargs)
        raise Reached

    handle = text_model.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with torch.inference_mode():
            base(**inputs, use_cache=use_cache, logits_to_keep=1)
    except Reached:
        pass
    finally:
        handle.remove()
    (kwargs,) = calls

    def run() -> CausalLMOutputWithPast:
        with torch.inference_mode():
            output = text_model(**kwargs)
            logits = base.get_output_embeddings()(output.last_hidden_state[:, -1:])
        return CausalLMOutputWithPast(logits=logits, past_key_values=output.past_key_values)

    return run


@contextmanager
def layer_laps(model: nn.Module, watch: Stopwatch) -> Iterator[None]:
    """Within it, a call leaves a lap of each decoder layer on the watch."""
    layers = family_of(model).text_model(unwrap(model)).layers
    hooks = [layers[0].register_forward_pre_hook(lambda *_: watch.start())]
    for number, layer in enumerate(layers):
        hooks.append(layer.register_forward_hook(lambda *_, name=f"{LAYER}{number}": watch.lap(name)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
