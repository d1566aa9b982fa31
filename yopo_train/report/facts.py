"""A plan in words and as a table: what the terminal and the page both show."""

import json
from dataclasses import replace
from typing import Any

from yopo_train.cost import Grid, dense_visual_flops, visual_flops
from yopo_train.plan import PruningPlan
from yopo_train.summary import NOTHING, Table

ASSUMED_GRID: Grid = (1, 24, 24)
"""LLaVA-1.5's image, for plans that record no prompt."""
MEASURES = {"visual_flops": "visual FLOPs", "prefill_flops": "prefill FLOPs", "kv_bytes": "KV cache"}
"""What a budget may be a share of."""
FIRST = ("method", "preset", "budget", "measure", "choice", "head_ratio", "channel_ratio")
SOURCE = ("scores", "samples", "data_fingerprint")
"""Of what a plan records about its making: the telling settings, and what it was measured on."""
LAYER_HEADERS = ["layer", "heads", "kept", "KV heads", "channels", "visual FLOPs"]


def plan_facts(plan: PruningPlan) -> list[tuple[str, str]]:
    """Name and value, in the order in which they are shown."""
    dims = plan.dims
    window = "no restriction" if plan.radius is None else f"{plan.radius} (a window of {2 * plan.radius + 1} tokens)"
    facts = [
        ("plan", plan.id),
        ("base model", _named(plan.base_model, plan.revision)),
        ("dimensions", f"{dims.layers} layers, {dims.heads} heads ({dims.kv_heads} KV), {dims.intermediate} channels"),
        ("visual depth", f"{plan.depth} of {dims.layers} layers"),
        ("neighbor radius", window),
        ("semantics", plan.semantics),
        ("made by", _settings(plan.made_by)),
        ("measured on", _measured_on(plan.made_by)),
        ("predicted cost", _predicted(plan)),
    ]
    return [(name, printable(value)) for name, value in facts if value]


def layer_table(plan: PruningPlan, marks: str = "●○") -> Table:
    """One row a visual layer, and one for all layers behind them.

    Parameters
    ----------
    plan
        The plan.
    marks
        How an active and an inactive head look.
    """
    dims, base = plan.dims, dense_visual_flops(plan.dims, _tokens(plan)) / plan.dims.layers
    rows = []
    for layer in range(plan.depth):
        kept = plan.heads[layer].tolist()
        share = 1.0 if plan.is_dense else _layer_flops(plan, layer) / base
        rows.append(
            [
                str(layer),
                "".join(marks[0] if head else marks[1] for head in kept),
                f"{sum(kept)}/{dims.heads}",
                f"{int(plan.kv_heads_needed(layer).sum())}/{dims.kv_heads}",
                f"{int(plan.channels[layer].sum())}/{dims.intermediate}",
                f"{100 * share:.1f} %",
            ]
        )
    if plan.depth < dims.layers:
        last = dims.layers - 1
        name = str(last) if plan.depth == last else f"{plan.depth}-{last}"
        rows.append([name, "text only", f"0/{dims.heads}", f"0/{dims.kv_heads}", f"0/{dims.intermediate}", "0.0 %"])
    return Table(LAYER_HEADERS, rows)


def layer_note(plan: PruningPlan) -> str:
    """What the table's costs are shares of."""
    grids = ", ".join(" x ".join(map(str, grid[grid[0] == 1 :])) for grid in _grids(plan))
    known = "" if recorded_grids(plan) else " (assumed, as the plan records no prompt)"
    note = f"visual FLOPs: share of what the layer costs in the base model, for images of {grids} tokens{known}"
    if plan.depth and not plan.is_dense:
        note += f"; layer {plan.depth - 1}, the last visual one, computes keys and values only"
    return note


def printable(text: str) -> str:
    """Without line breaks and control characters: names come from files that others made."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _layer_flops(plan: PruningPlan, layer: int) -> float:
    """Visual FLOPs of one layer: what is saved where it too loses all heads and channels."""
    heads, channels = plan.heads.clone(), plan.channels.clone()
    heads[layer], channels[layer] = False, False
    without = replace(plan, heads=heads, channels=channels)
    return visual_flops(plan, _grids(plan)) - visual_flops(without, _grids(plan))


def _recorded(plan: PruningPlan) -> dict[str, Any]:
    """The plan's cost, of which the plan itself checks nothing."""
    return plan.cost if isinstance(plan.cost, dict) else {}


def recorded_grids(plan: PruningPlan) -> list[Grid]:
    """Images of the prompt that the plan's cost is for; empty where it records none."""
    found = _recorded(plan).get("grids")
    grids = found if isinstance(found, list) else []
    sound = all(isinstance(g, list) and len(g) == 3 and all(type(n) is int and n > 0 for n in g) for g in grids)
    return [tuple(grid) for grid in grids] if sound else []


def _grids(plan: PruningPlan) -> list[Grid]:
    return recorded_grids(plan) or [ASSUMED_GRID]


def _tokens(plan: PruningPlan) -> int:
    return sum(frames * rows * columns for frames, rows, columns in _grids(plan))


def _named(name: Any, revision: Any) -> str:
    return f"{name or NOTHING}" + (f" at {revision}" if revision else "")


def _settings(made_by: Any) -> str:
    """``key value`` pairs, the telling ones first; what is null is left out."""
    if not isinstance(made_by, dict):
        return str(made_by)
    keys = [key for key in FIRST if key in made_by]
    keys += [key for key in made_by if key not in FIRST + SOURCE]
    found = [f"{key} {_value(made_by[key])}" for key in keys if made_by[key] is not None]
    return ", ".join(found) or "not recorded"


def _measured_on(made_by: Any) -> str:
    """Which scores, of how many samples, of which data: what traces a plan to its calibration."""
    if not isinstance(made_by, dict):
        return ""
    named = zip(SOURCE, ("scores {}", "{} samples", "{}"), strict=True)
    return ", ".join(text.format(_value(made_by[key])) for key, text in named if made_by.get(key) is not None)


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "+".join(value) or "none"
    return value if isinstance(value, str) else json.dumps(value)


def _predicted(plan: PruningPlan) -> str:
    share = visual_flops(plan, _grids(plan)) / dense_visual_flops(plan.dims, _tokens(plan))
    assumed = "" if recorded_grids(plan) else ", for one assumed image of 24 x 24 tokens"
    found = f"{100 * share:.1f} % of the base model's visual FLOPs{assumed}"
    measure, other = (_recorded(plan).get(name) for name in ("measure", "share"))
    if measure in MEASURES and isinstance(other, float):
        found += f", {100 * other:.1f} % of its {MEASURES[measure]}"
    return found
