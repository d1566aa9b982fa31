"""What is measured: the stock model, the pruned one and, on request, the authors' way, in turns on the same inputs.

===========  ==========================================================================================================
vision       vision tower, projector and embedding: all in front of the language model's first layer
prefill      the language model up to the first token's logits, the LM head on the last token only
first_token  the whole call: vision and prefill
decode       one greedy token of each sample, after the prefill, with its KV cache: the median of an answer's tokens
train        one LoRA step, see ``training.py``; with the vision tower, if that is measured at all
===========  ==========================================================================================================

FLOPs and memory come from runs that are not timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from ..cost import Prompt, kv_cache_bytes, prefill_flops
from ..models import unwrap
from ..models.prompt import prompt_of
from ..plan import PruningPlan
from ..pruning import prune, unprune
from .calibration import calibration_cost
from .call import Inputs, TimedCall
from .device import device_name
from .flops import counted_flops
from .memory import cache_bytes, peak_bytes, weight_bytes
from .results import Comparison, Row
from .timer import Contender, Timing, interleave, turns
from .training import lora_step
from .whole_model import LAYER, extrapolate

Switch = Callable[[nn.Module], nn.Module]


@dataclass
class Options:
    """What to measure beside prefill and memory.

    Parameters
    ----------
    repeats, warmup
        Timed rounds, and rounds before them.
    vision
        False: the language model alone; what is in front of it runs once, untimed.
    decode
        Tokens to generate; 0 measures no decoding.
    train
        Also a LoRA training step; the model's own weights are frozen afterwards.
    reference
        Also the authors' way: masks in the stock model. It keeps no KV cache and decodes nothing.
    calibration
        Also a calibration pass.
    whole
        The whole model's plan, where the model is a slice: extrapolate to it.
    """

    repeats: int = 10
    warmup: int = 1
    vision: bool = True
    decode: int = 0
    train: bool = False
    reference: bool = False
    calibration: bool = False
    whole: PruningPlan | None = None

    @property
    def turns(self) -> int:
        """How often `compare` calls ``on_turn``."""
        contenders = (2 + self.reference) * (1 + self.train) + 2 * self.calibration
        return turns(contenders, self.repeats, self.warmup)


@dataclass
class _Case:
    """A contender: how to make the model into it, and its plan for the formulas."""

    switch: Switch
    plan: PruningPlan
    cached: bool = True


def compare(
    model: nn.Module,
    inputs: Inputs,
    plan: PruningPlan,
    options: Options,
    on_turn: Callable[[], None] = lambda: None,
) -> Comparison:
    """Measure; the model is left unpruned.

    Parameters
    ----------
    model : nn.Module
        An unpruned model in eval mode, on the device to measure.
    inputs : dict
        Model inputs of a batch; all samples of equal length.
    plan : PruningPlan
        The plan to compare with.
    on_turn
        Called ``options.turns`` times, for a progress bar.
    """
    cases, prompt, weight = _cases(plan, options.reference), prompt_of(model, inputs), next(model.parameters())
    try:
        rows, times = _prefill(model, inputs, cases, options, prompt, on_turn)
        cost = None
        if options.calibration:
            cost = calibration_cost(model, inputs, options.repeats, options.warmup, on_turn)
        if options.train:
            _train(model, inputs, cases, options, rows, on_turn)
    finally:
        unprune(model)
    whole = extrapolate(times, plan, options.whole, prompt, _vocab(model)) if options.whole else None
    batch, text = len(inputs["input_ids"]), Prompt([], prompt.text_tokens)
    return Comparison(
        rows=rows,
        plan=plan.describe(),
        visual_tokens=prompt.visual_tokens,
        text_tokens=prompt.text_tokens,
        batch=batch,
        repeats=options.repeats,
        dtype=str(weight.dtype).removeprefix("torch."),
        device=device_name(weight.device),
        threads=torch.get_num_threads(),
        text_cache_bytes=batch * kv_cache_bytes(plan, text, weight.itemsize),
        whole_model=whole,
        calibration=cost,
    )


def _cases(plan: PruningPlan, reference: bool) -> dict[str, _Case]:
    """The contenders by name."""
    cases = {
        "base": _Case(unprune, PruningPlan.dense(plan.dims)),
        "pruned": _Case(lambda model: prune(model, plan), plan),
    }
    if reference:
        cases["reference"] = _Case(lambda model: prune(model, plan, "reference"), plan, cached=False)
    return cases


# -- timed ------------------------------------------------------------------------------------------------------------
def _prefill(
    model: nn.Module,
    inputs: Inputs,
    cases: dict[str, _Case],
    options: Options,
    prompt: Prompt,
    on_turn: Callable[[], None],
) -> tuple[dict[str, Row], dict[str, dict[str, Timing]]]:
    """Measure and time each contender's call: a row each, and all laps, those of single layers too."""
    by_layer = options.whole is not None
    calls = {
        name: TimedCall(model, inputs, case.cached, options.vision, options.decode, by_layer)
        for name, case in cases.items()
    }
    rows = {name: _sizes(case, calls[name], prompt) for name, case in cases.items()}
    contenders = {name: Contender(partial(case.switch, model), calls[name].measures()) for name, case in cases.items()}
    device = next(model.parameters()).device
    times = interleave(contenders, device, options.repeats, options.warmup, on_turn)
    for name, row in rows.items():
        row.times = {lap: timing for lap, timing in times[name].items() if not lap.startswith(LAYER)}
    return rows, times


def _train(
    model: nn.Module,
    inputs: Inputs,
    cases: dict[str, _Case],
    options: Options,
    rows: dict[str, Row],
    on_turn: Callable[[], None],
) -> None:
    """Time a LoRA step of each contender, and count its FLOPs and memory."""
    device = next(model.parameters()).device
    with lora_step(model, inputs, options.vision) as lora:
        contenders = {
            name: Contender(partial(lora.prepare, case.switch), [lora.measure]) for name, case in cases.items()
        }
        times = interleave(contenders, device, options.repeats, options.warmup, on_turn)
        for name, case in cases.items():
            lora.prepare(case.switch)
            lora.step()  # makes the optimizer's state
            rows[name].times |= times[name]
            rows[name].train_flops = counted_flops(lora.step, "computed")
            rows[name].train_peak_bytes = peak_bytes(lora.model, lora.held, lora.step)


# -- not timed --------------------------------------------------------------------------------------------------------
def _sizes(case: _Case, call: TimedCall, prompt: Prompt) -> Row:
    """FLOPs and bytes of one contender."""
    model = call.model
    case.switch(model)
    batch, itemsize = len(call.inputs["input_ids"]), next(model.parameters()).itemsize
    language_model = call.language_model
    row = Row(
        flops=batch * prefill_flops(case.plan, prompt, _vocab(model)),
        counted=counted_flops(language_model, "attended"),
        computed=counted_flops(language_model, "computed"),
        weight_bytes=weight_bytes(model),
    )
    if call.vision:
        del call.language_model, language_model  # its inputs would count as memory
    outputs = []
    row.peak_bytes = peak_bytes(model, call.held, lambda: outputs.append(call.run()))
    if case.cached:
        row.cache_bytes = cache_bytes(outputs[0].past_key_values)
        row.cache_formula = batch * kv_cache_bytes(case.plan, prompt, itemsize)
    return row


def _vocab(model: nn.Module) -> int:
    return unwrap(model).get_output_embeddings().weight.shape[0]
