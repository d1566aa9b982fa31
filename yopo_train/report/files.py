"""What a report is made from: the files of a run folder, read and checked before anything is drawn.

scores.safetensors   what calibration measured: needed
plan.safetensors     the plan
results.json         accuracy and costs
curves.json          effect of each mechanism alone
search.json          the plans that the search tried
stability.json       plans from disjoint halves of the calibration set
logs/metrics.csv     the course of the training
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yopo_train.calibration.scores import Scores
from yopo_train.errors import UserError
from yopo_train.plan import PruningPlan
from yopo_train.report.training import Curves, read_training
from yopo_train.run_folder import RunFolder


@dataclass
class Inputs:
    """Everything that a report shows; None, or empty, is what the folder does not have."""

    run: RunFolder
    scores: Scores
    plan: PruningPlan | None = None
    results: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)
    search: dict[str, Any] = field(default_factory=dict)
    stability: dict[str, Any] = field(default_factory=dict)
    training: Curves = field(default_factory=dict)


def read_inputs(run: RunFolder) -> Inputs:
    """Read and check a run's files.

    Raises
    ------
    UserError
        Not a run folder, no scores, a damaged file, or a plan of other dimensions than the scores; the message names
        the file (and the field).
    """
    if not run.path.is_dir():
        raise UserError(f"{run}: no such folder, expected the folder of a run")
    if not any(path.exists() for path in (run.config, run.scores, run.plan, run.results_file)):
        raise UserError(f"{run}: holds no config.yaml and no scores.safetensors, expected the folder of a run")
    if not run.scores.is_file():
        raise UserError(f"{run}: holds no scores.safetensors yet, expected the folder of a run that has calibrated")
    inputs = Inputs(run, Scores.load(run.scores))
    if run.plan.is_file():
        inputs.plan = PruningPlan.load(run.plan)
        inputs.plan.check(inputs.scores.dims, str(run.scores))
    inputs.results = _checked(run.results_file, _check_results)
    inputs.curves = _checked(run.curves, _check_curves)
    inputs.search = _checked(run.search, _check_search)
    inputs.stability = _checked(run.stability, _check_stability)
    inputs.training = read_training(run)
    return inputs


def _checked(path: Path, check: Callable[[dict], None]) -> dict[str, Any]:
    """A JSON file's content, or nothing where there is none."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds {type(content).__name__}, expected sections")
    try:
        check(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return content


# -- the files --------------------------------------------------------------------------------------------------------
def _check_results(content: dict) -> None:
    for stage, score in _section(content, "test").items():
        place = f"test.{stage}"
        _fields(place, score, {"accuracy": _is_share, "samples": _is_number, "kinds": _is_shares})
    costs = _section(content, "cost")
    for stage in ("base", "pruned"):
        if stage in costs:
            numbers = dict.fromkeys(("visual_flops", "prefill_flops", "kv_cache_bytes"), _is_number)
            _fields(f"cost.{stage}", costs[stage], numbers)
    if "pruned" in costs and "base" not in costs:
        raise UserError("section cost has no entry base, expected the base model's costs beside the pruned one's")
    bench = _section(content, "bench")
    for stage in ("base", "pruned"):
        if bench:
            _fields(f"bench.{stage}", bench.get(stage), {"prefill": _is_number})
    _section(content, "environment")


def _check_curves(content: dict) -> None:
    point = {"value": _is_number, "kl": _is_loss, "agreement": _is_loss}
    _rows("depth", content.get("depth", []), point)
    _rows("radius", content.get("radius", []), point | {"value": lambda value: value is None or _is_number(value)})
    for name in ("heads", "channels"):
        for choice, points in _section(content, name).items():
            _rows(f"{name}.{choice}", points, point)


def _check_search(content: dict) -> None:
    _fields("search", content, {"measure": _is_text, "budget": _is_number, "chosen": _is_text})
    kinds = {"plan": _is_text, "stage": _is_text, "cost": _is_number, "kl": _is_loss, "agreement": _is_loss}
    _rows("trace", content.get("trace", []), kinds)


def _check_stability(content: dict) -> None:
    losses = dict.fromkeys(("heads_jaccard", "channels_jaccard", "kl"), _are_losses)
    _rows("sizes", content.get("sizes", []), {"samples": _is_count} | losses)
    if content.get("enough") is not None and not _is_count(content["enough"]):
        raise UserError(f"enough is {content['enough']!r}, expected a number of samples or null")


# -- their parts ------------------------------------------------------------------------------------------------------
def _section(content: dict, name: str) -> dict:
    section = content.get(name, {})
    if not isinstance(section, dict):
        raise UserError(f"section {name} is {type(section).__name__}, expected named entries")
    return section


def _rows(place: str, rows: Any, kinds: dict[str, Callable[[Any], bool]]) -> None:
    if not isinstance(rows, list):
        raise UserError(f"{place} is {type(rows).__name__}, expected a list")
    for number, row in enumerate(rows):
        _fields(f"{place}[{number}]", row, kinds)


def _fields(place: str, entry: Any, kinds: dict[str, Callable[[Any], bool]]) -> None:
    if not isinstance(entry, dict):
        raise UserError(f"{place} is {type(entry).__name__}, expected named values")
    for name, is_sound in kinds.items():
        if name not in entry:
            raise UserError(f"{place} has no {name}")
        if not is_sound(entry[name]):
            raise UserError(f"{place}.{name} is {str(entry[name])[:60]!r}, which it cannot be")


def _is_loss(value: Any) -> bool:
    """A number; a model that a plan breaks may give one that is not finite."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


def _is_number(value: Any) -> bool:
    return _is_loss(value) and math.isfinite(value) and value >= 0


def _is_share(value: Any) -> bool:
    return _is_number(value) and value <= 1


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**31


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_losses(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_loss, value))


def _is_shares(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_share, value.values()))
