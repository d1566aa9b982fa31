"""The command ``yopo-train bench``: its options, checked before anything is done, and the order of its work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console

from ..calibration import PlanConfig
from ..calibration.plan_config import PRESETS
from ..cost import Grid
from ..errors import UserError, first_line
from ..models import family_of
from ..plan import PruningPlan
from ..progress import Bar
from ..run_folder import write_text
from .device import pick_device
from .measures import Options, compare
from .models import RANDOM_DTYPES, check_memory, model_config, random_inputs, random_model, random_plan, shape_config
from .plot import FORMATS, save_plot
from .report import growth_report, report
from .results import Comparison, growth

REPEATS_CPU, REPEATS_GPU = 10, 30


def bench(
    model: str = "llava-1.5-7b",
    layers: int | None = None,
    visual_tokens: str | None = None,
    text_tokens: int = 64,
    batch: int = 1,
    dtype: str = "float32",
    device: str | None = None,
    preset: str = "",
    budget: float | None = None,
    plan: Path | None = None,
    radius: int | None = None,
    vision: bool = True,
    decode: int = 16,
    train: bool = False,
    reference: bool = False,
    calibration: bool = False,
    repeats: int | None = None,
    json: Path | None = None,
    plot: Path | None = None,
) -> list[Comparison]:
    """Speed and memory of the stock model (SDPA) and of the pruned one, in turns in one process, with random weights.

    Args:
        model: a name (llava-1.5-7b, llava-1.5-13b, llava-next-7b, llava-onevision-7b, qwen2-vl-7b, qwen2.5-vl-7b,
            qwen3-vl-8b, internvl2-4b, internvl2-8b, internvl2-26b, internvl3-8b), or a local folder or Hub id whose
            config gives the dimensions
        layers: keep only so many layers of the language model; the whole is extrapolated
        visual_tokens: tokens of the image, those of a typical one unless given; several (576,2304,9216) fit the
            growth of the prefill time under the plan that the first makes
        text_tokens: all other tokens
        batch: samples
        dtype: float32, bfloat16 or float16
        device: cpu or cuda; a GPU where there is one, unless given
        preset: paper-25 or paper-12; paper-25 where neither budget nor plan is given
        budget: share of the visual FLOPs to keep
        plan: a plan.safetensors
        radius: neighbor radius of the preset or budget; 3 unless given
        vision: time the vision tower, too; false measures the language model alone
        decode: tokens to generate after the prompt
        train: also a LoRA training step
        reference: also the authors' way, masks in the stock model
        calibration: also a calibration pass beside a plain forward pass
        repeats: timed rounds; 10 on a CPU, 30 on a GPU, unless given
        json: write the results here
        plot: draw them here (.pdf, .png or .svg)
    """
    where = pick_device(device)
    repeats = (REPEATS_GPU if where.type == "cuda" else REPEATS_CPU) if repeats is None else repeats
    _at_least(1, batch=batch, repeats=repeats)
    _at_least(0, decode=decode)
    _at_least(2 if train else 1, text_tokens=text_tokens)
    if dtype not in RANDOM_DTYPES:
        raise UserError(f"--dtype is {dtype!r}, expected one of: {', '.join(RANDOM_DTYPES)}")
    _check_outputs(json, plot)
    pruning = _pruning(preset, budget, plan, radius)
    points = _points(model, layers, [] if visual_tokens is None else _numbers(visual_tokens), pruning)
    for point in points:
        check_memory(point.config, dtype, where)
    comparisons, console = [], Console(stderr=True)  # the report alone is on stdout
    for point in points:
        options = Options(repeats, 1, vision, decode, train, reference, calibration, point.whole)
        with _enough_memory():
            network = random_model(point.config, dtype, where)
            inputs = random_inputs(network, point.grids, text_tokens, batch)
            # begun when the model is there: its rate is that of the turns
            with Bar(f"{point.visual_tokens} visual tokens", "turns", options.turns, console=console) as bar:
                comparisons.append(compare(network, inputs, point.plan, options, bar.advance))
            del network
        print(report(comparisons[-1]), flush=True)
        if point.whole is not None and comparisons[-1].whole_model is None:
            print("- not extrapolated: the slice lacks a kind of layer that the whole model has, try more --layers")
        if json is not None:  # now, lest a later prompt shape that is too large takes it away
            write_text(json, dumps(_results(model, layers, comparisons), indent=2) + "\n")
    if len(comparisons) > 1:
        print(f"- {growth_report(comparisons)}")
    if plot is not None:
        save_plot(comparisons, plot)
    return comparisons


@dataclass
class _Point:
    """One prompt shape of the sweep: the model cut to size, and the plan for it."""

    visual_tokens: int
    grids: list[Grid]
    config: Any
    plan: PruningPlan
    whole: PruningPlan | None


def _points(name: str, layers: int | None, sizes: list[int], pruning: PlanConfig | PruningPlan) -> list[_Point]:
    """Refuses, before any model is built, what the model does not have and plans that do not fit.

    A sweep has one plan, made for its first size: what is kept of heads and channels must not change on the way.
    """
    points, plan, whole = [], None, None
    first = model_config(name)
    for visual_tokens in sizes or [family_of(first).typical_tokens(first)]:
        config = model_config(name)
        whole_dims = family_of(config).dims(config)
        grids = shape_config(config, layers, visual_tokens)
        dims = family_of(config).dims(config)
        if plan is None and isinstance(pruning, PruningPlan):
            pruning.check(dims, f"--model {name}" + (f" --layers {layers}" if layers else ""))
            plan = pruning
        elif plan is None:
            plan = random_plan(dims, pruning, grids)
            whole = random_plan(whole_dims, pruning, grids) if dims != whole_dims else None
        points.append(_Point(visual_tokens, grids, config, plan, whole))
    return points


def _results(model: str, layers: int | None, comparisons: list[Comparison]) -> dict[str, Any]:
    """For JSON."""
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    found = {"model": model, "layers": layers, "versions": versions}
    found["points"] = [comparison.as_dict() for comparison in comparisons]
    return found | ({"growth": growth(comparisons)} if len(comparisons) > 1 else {})


# -- options ----------------------------------------------------------------------------------------------------------
def _pruning(preset: str, budget: float | None, plan: Path | None, radius: int | None) -> PlanConfig | PruningPlan:
    """How to prune; messages name the options."""
    given = {"--preset": preset or None, "--budget": budget, "--plan": plan}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise UserError(f"{' and '.join(names)} are given, expected one of them")
    if preset and preset not in PRESETS:
        presets = " or ".join(PRESETS)
        raise UserError(f"--preset is {preset}, expected {presets} (or no --preset beside --budget or --plan)")
    if plan is None:
        config = PlanConfig(preset=preset or (None if budget is not None else "paper-25"), budget=budget, radius=radius)
        try:
            config.check()
        except UserError as error:  # names keys of a configuration file, which bench has none of
            raise UserError(str(error).replace("model.pruning.", "--")) from None
        return config
    if radius is not None:
        raise UserError(f"--radius is {radius}, expected none beside --plan, which has its own")
    return PruningPlan.load(plan)


def _numbers(text: str) -> list[int]:
    """``576,2304`` as numbers."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts):
        raise UserError(f"--visual-tokens is {text!r}, expected a number, or several with commas between them")
    numbers = [int(part) for part in parts]
    if len(set(numbers)) < len(numbers):
        raise UserError(f"--visual-tokens is {text}, expected each number once")
    return numbers


def _at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise UserError(f"--{name.replace('_', '-')} is {value}, expected {least} or more")


def _check_outputs(json: Path | None, plot: Path | None) -> None:
    """Before an hour of measuring and not after it."""
    for name, path in (("--json", json), ("--plot", plot)):
        if path is not None and (problem := _no_output(path)):
            raise UserError(f"{name} is {path}, but {problem}: expected a file to write")
    if plot is not None and plot.suffix not in FORMATS:
        raise UserError(f"--plot is {plot}, expected a file that ends in one of: {', '.join(FORMATS)}")


def _no_output(path: Path) -> str:
    """Why no file can be put there; empty where one can."""
    if path.is_dir():
        return "that is a folder"
    if path.exists() and not path.is_file():  # /dev/null, say: a file is renamed to its place, and would replace it
        return "that is no regular file"
    return "" if path.parent.is_dir() else "its folder does not exist"


# -- while it runs ----------------------------------------------------------------------------------------------------
@contextmanager
def _enough_memory() -> Iterator[None]:
    """A GPU that is too small in one line."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        hint = "try fewer --layers, --visual-tokens or --batch, or a smaller --dtype"
        raise UserError(f"out of memory on the GPU ({first_line(error)}): {hint}") from error
