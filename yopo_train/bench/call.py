"""One contender's call: from the images, or the language model alone; with the laps that are timed of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
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

    @property
    def run(self) -> Callable[[], CausalLMOutputWithPast]:
        """The call up to the first token's logits. Without vision, all in front of it runs when this is first read."""
        return self._from_images if self.vision else self.language_model

    @property
    def held(self) -> list[Tensor]:
        """Tensors beside the weights that are there before `run` is called, and stay."""
        made = [] if self.vision else tree_leaves(self.language_model.inputs)
        return [x for x in (*self.inputs.values(), *made) if isinstance(x, Tensor)]

    @cached_property
    def language_model(self) -> LanguageModelCall:
        """The call without what is in front of the first layer."""
        return LanguageModelCall(self.model, self.inputs, self.cached)

    @torch.inference_mode()
    def _from_images(self) -> CausalLMOutputWithPast:
        return self.model(**self.inputs, use_cache=self.cached, logits_to_keep=1)

    @torch.inference_mode()
    def _answer(self, watch: Stopwatch, by_layer: bool) -> None:
        run, layers = self.run, Stopwatch(watch.device)
        with (
            layer_laps(self.model, layers) if by_layer else nullcontext(),
            vision_laps(self.model, watch) if self.vision else nullcontext(),
        ):
            watch.start()
            output = run()
            watch.lap("prefill")

        def next_token() -> None:
            nonlocal output
            token = output.logits[:, -1:].argmax(-1)
            output = self.model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)

        if self.decode:
            watch.typical("decode", next_token, self.decode)
        watch.laps |= layers.laps

    def _layers(self, watch: Stopwatch) -> None:
        run = self.run
        with layer_laps(self.model, watch):
            run()


class LanguageModelCall:
    """What ``model(**inputs)`` does from the first layer to the last token's logits, to be run by itself.

    Everything in front of it (vision tower, projector, embedding) runs once, now. It holds whenever the model runs
    under the plan that it has now; each run fills a new KV cache.

    Attributes
    ----------
    inputs : dict
        What the text model is called with: embedded tokens, positions and so on.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, use_cache: bool = True) -> None:
        self._base = unwrap(model)
        self._text_model = family_of(model).text_model(self._base)
        calls = []

        class Reached(Exception):
            """Ends the call in front of the first layer."""

        def keep(_, args, kwargs):
            calls.append(kwargs)
            raise Reached

        handle = self._text_model.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            with torch.no_grad():  # what inference mode makes cannot be trained with
                self._base(**inputs, use_cache=use_cache, logits_to_keep=1)
        except Reached:
            pass
        finally:
            handle.remove()
        (self.inputs,) = calls

    @torch.inference_mode()
    def __call__(self) -> CausalLMOutputWithPast:
        return self._output(slice(-1, None))

    def logits(self, columns: slice) -> Tensor:
        """``(batch, columns, vocabulary)``, with their graph."""
        return self._output(columns).logits

    def _output(self, columns: slice) -> CausalLMOutputWithPast:
        output = self._text_model(**self.inputs)
        hidden = output.last_hidden_state[:, columns]
        # in two dimensions: of a slice in three, a linear layer that is frozen copies its weights
        logits = self._base.get_output_embeddings()(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])
        return CausalLMOutputWithPast(logits=logits, past_key_values=output.past_key_values)


@contextmanager
def vision_laps(model: nn.Module, watch: Stopwatch) -> Iterator[None]:
    """Within it, a call leaves the lap ``vision`` where the language model begins; at its end is ``first_token``."""
    text_model = family_of(model).text_model(unwrap(model))
    border = text_model.register_forward_pre_hook(lambda *_: watch.lap("vision"))
    try:
        yield
        watch.total("first_token")
    finally:
        border.remove()


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
