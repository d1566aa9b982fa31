"""What a published folder holds, and whether it is sound."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from huggingface_hub import ModelCard

from ..calibration.scores import Scores
from ..errors import UserError, first_line
from ..plan import PruningPlan
from .base import check_hub_id
from .private import local_paths
from .safety import check_folder, read_json

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PLAN, SCORES, RESULTS, CONFIG = "plan.safetensors", "scores.safetensors", "results.json", "config.yaml"
CARD, HEAD_MAP = "README.md", "heads.png"
FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, PLAN, SCORES, CARD, HEAD_MAP, RESULTS, CONFIG)
"""All that a folder of an adapter, or of a plan alone, consists of."""
MODEL_CONFIG = "config.json"
"""What a folder has that holds a complete model."""


def is_exported(folder: Path) -> bool:
    """Whether a folder is published, or made to be; a run's own may hold a README.md, too, with somebody's notes."""
    card = folder / CARD
    if not card.is_file() or (folder / "adapter").is_dir() or (folder / "model").is_dir():
        return False
    complete = any((folder / name).is_file() for name in (ADAPTER_CONFIG, MODEL_CONFIG))
    return complete or b"\nlibrary_name:" in card.read_bytes()


@dataclass(frozen=True)
class Contents:
    """What is in a published folder.

    Parameters
    ----------
    path
        The folder.
    kind
        adapter: with or without a plan. plan: a plan alone, without any training. model: a complete, merged model.
    base_model, revision
        The base that an adapter or a plan is for; None where nobody has named it.
    plan
        The plan, None without one.
    scores
        What calibration measured, None without it.
    files
        Names of its files that may be sent.
    """

    path: Path
    kind: Literal["adapter", "plan", "model"]
    base_model: str | None
    revision: str | None
    plan: PruningPlan | None
    scores: Scores | None
    files: tuple[str, ...]


def check(folder: str | Path, publish: bool = False) -> Contents:
    """Read a folder of an adapter, a plan, or a merged model.

    Parameters
    ----------
    publish
        Also check what only others would miss: a valid card, readable results, and that no local path is in any file.

    Raises
    ------
    UserError
        Nothing to load in it, a damaged file, or files that contradict each other; the message names the file.
    """
    folder = Path(folder)
    names = check_folder(folder)
    if not {ADAPTER_CONFIG, ADAPTER_WEIGHTS, PLAN, MODEL_CONFIG} & set(names):
        raise UserError(f"{folder}: no {ADAPTER_CONFIG}, no {PLAN} and no {MODEL_CONFIG} in it, expected one of them")
    plan = PruningPlan.load(folder / PLAN) if PLAN in names else None
    scores = Scores.load(folder / SCORES) if SCORES in names else None
    if plan is not None and scores is not None:
        plan.check(scores.dims, str(folder / SCORES))
    kind, base, revision = _base(folder, names, plan)
    _check_pair(folder, names, kind, plan)
    found = Contents(folder, kind, base, revision, plan, scores, tuple(names))
    if publish:
        _check_public(found)
    return found


def _base(folder: Path, names: list[str], plan: PruningPlan | None) -> tuple[Any, str | None, str | None]:
    """Kind, base model and revision."""
    of_plan = (plan.base_model, plan.revision) if plan is not None else (None, None)
    if ADAPTER_CONFIG not in names:
        if ADAPTER_WEIGHTS in names:
            raise UserError(f"{folder}: {ADAPTER_WEIGHTS} without {ADAPTER_CONFIG}")
        return "model" if MODEL_CONFIG in names else "plan", *of_plan
    about = read_json(folder / ADAPTER_CONFIG)
    base, revision = about.get("base_model_name_or_path") or None, about.get("revision") or None
    if base is not None and of_plan[0] is not None and base != of_plan[0]:
        raise UserError(f"{folder}: the adapter is for {base}, but {PLAN} is for {of_plan[0]}: expected the same base")
    return "adapter", base, revision


def _check_pair(folder: Path, names: list[str], kind: str, plan: PruningPlan | None) -> None:
    """Refuse weights that were trained under another plan than the one beside them."""
    results = read_json(folder / RESULTS) if RESULTS in names else None
    train = results.get("train") if isinstance(results, dict) else None
    under = train.get("plan") if isinstance(train, dict) else None
    if plan is not None and kind != "plan" and isinstance(under, str) and under != plan.id:
        raise UserError(f"{folder}: was trained under plan {under:.40}, but {PLAN} is plan {plan.id}")


# -- what is sent ------------------------------------------------------------------------------------------------------
def _check_public(found: Contents) -> None:
    folder = found.path
    if found.base_model is not None:
        check_hub_id(found.base_model, f"{folder}: the base model")
    for name in (CARD, RESULTS, CONFIG) if found.kind != "model" else (CARD,):
        if name not in found.files:
            raise UserError(f"{folder}: no {name} in it, expected a folder that yopo-train has exported")
    read_card(folder / CARD)
    for name, content in _texts(found):
        place, path = next(local_paths(content), (None, None))
        if path is not None:
            raise UserError(
                f"{folder / name}: {place + ' ' if place else ''}holds the local path {path}, expected none"
            )


def read_card(path: Path) -> ModelCard:
    """A model card whose front matter huggingface_hub reads.

    Raises
    ------
    UserError
        Not readable, or wrong metadata.
    """
    try:
        text = path.read_text("utf-8")
        card = ModelCard(text) if text.lstrip().startswith("---") else None  # ModelCard logs that there is no metadata
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a valid model card: {first_line(error)}") from None
    if card is None or not card.data.to_dict():
        raise UserError(f"{path}: the card has no metadata, expected YAML between two lines of ---")
    return card


def _texts(found: Contents) -> list[tuple[str, Any]]:
    """Every text that a folder holds, by the name of its file."""
    folder = found.path
    texts = [(name, read_json(folder / name)) for name in (RESULTS, ADAPTER_CONFIG) if name in found.files]
    if CONFIG in found.files:
        text = (folder / CONFIG).read_text("utf-8")
        try:
            texts.append((CONFIG, yaml.safe_load(text)))
        except yaml.YAMLError as error:
            raise UserError(f"{folder / CONFIG}: not readable as YAML: {first_line(error)}") from None
        texts += [(CONFIG, line) for line in text.splitlines() if line.startswith("#")]
    if found.plan is not None:
        plan = found.plan
        texts.append((PLAN, [plan.base_model, plan.revision, plan.made_by, plan.cost]))
    if found.scores is not None:
        texts.append((SCORES, [found.scores.base_model, found.scores.revision, found.scores.data_fingerprint]))
    home = str(Path.home())
    for line in (folder / CARD).read_text("utf-8").splitlines():
        if len(home) > 1 and home in line:  # somebody may write /path/to/image.png into a card, but not where he lives
            texts.append((CARD, line))
    return texts
