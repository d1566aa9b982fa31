"""From a slice of a model to the whole: an extrapolation, labelled as one wherever it is shown.

In the slice each layer is timed by itself. Layers that see visual tokens and text-only layers each have their own rate,
FLOPs per millisecond; the whole model's layers of either kind are taken to run at it. What is not in a layer (the
embedding, the last norm, the LM head) takes the time that it took beside the slice.

    time(whole) = time outside of layers + FLOPs(its visual layers) / rate + FLOPs(its text-only layers) / rate

Rates, not layer times: a preset makes another plan for the whole model than for the slice, with other shares of heads
and channels in a layer.
"""

from __future__ import annotations

from ..cost import Prompt, layer_flops, prefill_flops
from ..plan import PruningPlan
from .results import WholeModel
from .timer import Timing

LAYER = "layer "
"""Laps of single layers are called so, and by number."""


def extrapolate(
    times: dict[str, dict[str, Timing]], plan: PruningPlan, whole: PruningPlan, prompt: Prompt, vocab: int
) -> WholeModel | None:
    """Prefill time of the whole model, base and pruned.

    Parameters
    ----------
    times
        Of base and pruned: prefill and one lap a layer.
    plan, whole
        The slice's plan, and the whole model's.

    Returns
    -------
    WholeModel or None
        None where the slice has no layer of a kind that the whole model has.
    """
    dense, whole_dense = PruningPlan.dense(plan.dims), PruningPlan.dense(whole.dims)
    base = _prefill_ms(times["base"], dense, whole_dense, prompt)
    pruned = _prefill_ms(times["pruned"], plan, whole, prompt)
    if base is None or pruned is None:
        return None
    ratio = prefill_flops(whole_dense, prompt, vocab) / prefill_flops(whole, prompt, vocab)
    return WholeModel(whole.dims.layers, base, pruned, ratio)


def _prefill_ms(times: dict[str, Timing], plan: PruningPlan, whole: PruningPlan, prompt: Prompt) -> float | None:
    layer_ms = [times[f"{LAYER}{number}"].median for number in range(plan.dims.layers)]
    total = max(times["prefill"].median - sum(layer_ms), 0.0)
    flops, whole_flops = layer_flops(plan, prompt), layer_flops(whole, prompt)
    kinds = (slice(plan.depth), slice(whole.depth)), (slice(plan.depth, None), slice(whole.depth, None))
    for here, there in kinds:  # visual layers, then text-only layers
        if whole_flops[there] and not flops[here]:
            return None
        if whole_flops[there]:
            total += sum(whole_flops[there]) / sum(flops[here]) * sum(layer_ms[here])
    return total
