"""The sections of the page: which figure, from what, how to read it, and which command makes what it needs."""

import shlex
from collections.abc import Callable

import torch

from yopo_train.errors import UserError
from yopo_train.report.attention import attention_by_distance, cross_modal_by_layer
from yopo_train.report.costs import cost_bars
from yopo_train.report.effects import depth_curve, radius_curve, ratio_curves
from yopo_train.report.facts import layer_note, layer_table, recorded_grids
from yopo_train.report.files import Inputs
from yopo_train.report.html import Block
from yopo_train.report.scoring import channel_curves, head_map
from yopo_train.report.search import frontier, stability
from yopo_train.report.style import png
from yopo_train.report.training import training_block
from yopo_train.summary import Table, run_table

COMMANDS = {
    "plan.safetensors": "yopo-train plan --config {config}",
    "curves.json": "yopo-train curves --config {config}",
    "search.json": "yopo-train plan --config {config} --model.pruning.method auto",
    "stability.json": "yopo-train curves --config {config}",
}
"""What makes a file that a section needs."""


def costs_section(inputs: Inputs) -> Block:
    """Costs and accuracy before and after."""
    block = Block(
        "costs",
        "Cost before and after",
        "What the pruned model still costs. Visual FLOPs count the visual tokens alone (the paper's measure), prefill "
        "FLOPs the whole prompt in the language model, both by formula; the table also has measured accuracy and time.",
    )
    found = inputs.results.get("cost", {})
    if "pruned" in found:
        times = inputs.results.get("bench", {})
        measured = {stage: {"prefill time, measured": times[stage]["prefill"]} for stage in ("base", "pruned") if times}
        base, pruned = (found[stage] | measured.get(stage, {}) for stage in ("base", "pruned"))
        block.picture = png(cost_bars(base, pruned))
    else:
        _without(block, inputs, "plan.safetensors", "results.json has no costs of a pruned model")
    if found or inputs.results.get("test"):
        block.tables.append(_results_table(inputs))
    return block


def training_section(inputs: Inputs) -> Block:
    """The course of the training."""
    return training_block(inputs.run, inputs.training)


def frontier_section(inputs: Inputs) -> Block:
    """The search for the plan."""
    block = Block(
        "frontier",
        "What the search found",
        "Each point is a plan that the search judged by how much it changes the base model's own answers to the "
        "calibration questions: left is cheaper, down is better. The line joins the plans that none beats in both.",
    )
    search = inputs.search
    if not search.get("trace"):
        return _without(block, inputs, "search.json")
    here, chosen = inputs.plan, search["chosen"]
    block.picture = png(frontier(search["trace"], chosen, search["budget"], search["measure"]))
    if here is not None and here.id != chosen:
        block.notes.append(f"The search chose {chosen}; the plan in this folder is another one, {here.id}.")
    return block


def heads_section(inputs: Inputs) -> Block:
    """The head ratio's map."""
    plan, rho = inputs.plan, inputs.scores.rho
    picture = head_map(rho.mean(dim=0), plan and plan.heads, plan and plan.depth)
    about = (
        f"The head ratio, mean over {len(rho)} samples: attention that text behind the image gives to the image, "
        "over what it gives to everything else. A dot marks a head that still sees visual tokens."
    )
    return Block("heads", "Which heads look at the image", about, png(picture))


def channels_section(inputs: Inputs) -> Block:
    """The channel scores."""
    plan = inputs.plan
    about = (
        "A channel's score is the most that it can add to the visual tokens: |activation| summed over them, times the "
        "norm of its column of down_proj. A curve that rises steeply means that few channels do most of the work."
    )
    picture = channel_curves(inputs.scores.channels, plan and plan.channels, plan and plan.depth)
    return Block("channels", "How unequal the FFN channels are", about, png(picture))


def layers_section(inputs: Inputs) -> Block:
    """The plan, layer by layer."""
    block = Block("layers", "The plan, layer by layer", "What visual tokens still compute in each layer.")
    if inputs.plan is None:
        return _without(block, inputs, "plan.safetensors")
    block.tables.append(layer_table(inputs.plan))
    block.notes.append(layer_note(inputs.plan))
    return block


def distance_section(inputs: Inputs) -> Block:
    """Attention by distance."""
    about = (
        "Share of the attention among visual tokens of one image that lies within a distance on the grid (the larger "
        "of the row and the column distance). A neighbor radius keeps what lies left of its line."
    )
    plan = inputs.plan
    grids = recorded_grids(plan) if plan is not None else []
    picture = attention_by_distance(inputs.scores.neighbor_mass, plan and plan.radius, grids)
    return Block("distance", "How far visual tokens look", about, png(picture))


def cross_modal_section(inputs: Inputs) -> Block:
    """Cross-modal attention."""
    about = (
        "Share of their attention that text queries behind the image give to visual keys, by layer. From the visual "
        "depth on there are no visual keys any more."
    )
    picture = cross_modal_by_layer(inputs.scores.cross_modal, inputs.plan and inputs.plan.depth)
    return Block("cross-modal", "Where text reads the image", about, png(picture))


def depth_section(inputs: Inputs) -> Block:
    """The depth alone."""
    block = Block("depth", "What the visual depth costs", _alone("visual depth", inputs))
    points = inputs.curves.get("depth")
    if not points:
        return _without(block, inputs, "curves.json")
    block.picture = png(depth_curve(points, inputs.plan and inputs.plan.depth))
    return block


def radius_section(inputs: Inputs) -> Block:
    """The radius alone."""
    block = Block("radius", "What the neighbor radius costs", _alone("neighbor radius", inputs))
    points = inputs.curves.get("radius")
    if not points:
        return _without(block, inputs, "curves.json")
    block.picture = png(radius_curve(points, inputs.plan and inputs.plan.radius, inputs.plan is not None))
    return block


def ratio_section(name: str) -> Callable[[Inputs], Block]:
    """The section on heads, or channels, alone."""

    def section(inputs: Inputs) -> Block:
        about = _alone(f"share of {name}", inputs) + " The score is what calibration measured, the others are controls."
        block = Block(f"{name}-ratio", f"What pruning {name} costs", about)
        choices = {choice: points for choice, points in inputs.curves.get(name, {}).items() if points}
        if not choices:
            return _without(block, inputs, "curves.json")
        plan = inputs.plan
        ratio = None
        if plan is not None and plan.depth:
            ratio = getattr(plan, name)[: plan.depth].to(torch.float64).mean().item()
        block.picture = png(ratio_curves(choices, name, ratio))
        return block

    return section


def stability_section(inputs: Inputs) -> Block:
    """How many samples are enough."""
    block = Block(
        "stability",
        "How many calibration samples are enough",
        "Plans made from two disjoint halves of the calibration set, a point a repetition: how much they overlap, and "
        "how much one changes the base model's answers.",
    )
    if not inputs.stability.get("sizes"):
        reason = "the run has no stability.json, which takes one process and 16 samples or more"
        return _without(block, inputs, "stability.json", reason)
    block.picture = png(stability(inputs.stability["sizes"], inputs.stability.get("enough")))
    return block


SECTIONS = (
    costs_section,
    training_section,
    frontier_section,
    layers_section,
    heads_section,
    cross_modal_section,
    distance_section,
    channels_section,
    depth_section,
    radius_section,
    ratio_section("heads"),
    ratio_section("channels"),
    stability_section,
)


def _without(block: Block, inputs: Inputs, file: str, reason: str | None = None) -> Block:
    """The section without its figure: why, and the command that makes the file it needs."""
    block.missing = (
        reason or f"the run has no {file}",
        COMMANDS[file].format(config=shlex.quote(str(inputs.run.config))),
    )
    return block


def _alone(what: str, inputs: Inputs) -> str:
    """How to read a curve."""
    samples, tokens = (inputs.curves.get(name) for name in ("samples", "answer_tokens"))
    size = f" Measured on {samples} samples, {tokens} answer tokens." if samples and tokens else ""
    return (
        f"Only the {what} is pruned, all else is the base model. KL says how far the distribution of each answer token "
        f"moves, agreement how often the most likely token stays.{size}"
    )


def _results_table(inputs: Inputs) -> Table:
    try:
        return run_table(inputs.results)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        found = f"{type(error).__name__} {error}"
        raise UserError(f"{inputs.run.results_file}: damaged, no table can be made of it ({found})") from None
