"""From a finished run to the folder that is published: a standard peft adapter, the plan beside it, and a card.

    adapter_config.json, adapter_model.safetensors   standard peft, in the base model's own order; absent where nothing
                                                     was trained
    plan.safetensors, scores.safetensors             what is pruned, and what calibration measured
    README.md, heads.png                             the card, and the picture in it
    results.json, config.yaml                        every number of the run, and the configuration that made it

Nothing in it names a folder of the machine that made it: the base model is a Hub id and a revision. Where the base was
a local folder, its Hub id has to be given; without one the field is null, which peft (given the base) and
``yopo_train.load(..., base=...)`` load as ever.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ..calibration.scores import Scores
from ..errors import UserError
from ..plan import PruningPlan
from ..run_folder import RunFolder, new_folder, write_bytes, write_text
from .base import Base, base_of, is_hub_id, started_in
from .card import write_card
from .card_data import Published, check_license
from .contents import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CARD,
    CONFIG,
    FILES,
    HEAD_MAP,
    PLAN,
    RESULTS,
    SCORES,
    Contents,
    check,
)
from .private import WHOLE, last_name, scrub
from .safety import read_json

__all__ = ["FILES", "Contents", "check", "export"]


def export(
    run: str | Path,
    out: str | Path,
    *,
    base_model: str | None = None,
    license: str | None = None,
    repo_id: str | None = None,
    adapter: str | Path | None = None,
) -> Path:
    """Write the folder that is published.

    Parameters
    ----------
    run
        Folder of a run that has a plan, an adapter, or both.
    out
        Folder to write. An earlier export there is replaced.
    base_model
        Hub id of the base, where it was a local folder.
    license
        The licence's identifier on the Hub; None is that of the base model.
    repo_id
        Where it will lie on the Hub: what the card's code samples load.
    adapter
        Another peft folder in place of the run's own, such as the best checkpoint's.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    UserError
        Not a finished run, a full finetune, a damaged file, wrong names, or a folder that cannot be written or holds
        something else; nothing is written then.
    """
    found, out = RunFolder(run), Path(out)
    check_license(license)
    adapter = _adapter_of(found, adapter)
    plan = PruningPlan.load(found.plan) if found.plan.is_file() else None
    scores = Scores.load(found.scores) if found.scores.is_file() else None
    base = base_of(found, plan, scores, base_model)
    _check_destination(found, out)
    published = published_of(found, base, plan, "adapter" if adapter is not None else "plan", repo_id, license)
    with new_folder(out) as folder:
        if adapter is not None:
            _write_adapter(folder, adapter, base)
        if scores is not None:
            _write_scores(folder, scores, base)
        write_about(folder, found, published, scores)
        check(folder, publish=True)
    return out


def published_of(
    run: RunFolder, base: Base, plan: PruningPlan | None, kind: str, repo_id: str | None, license: str | None
) -> Published:
    """What a card says of a run, without local paths; the plan in it is the one to publish."""
    raw = run.read_config() if run.config.is_file() else {}  # an adapter of somebody else's has none
    config = scrub(raw)
    if isinstance(config.get("model"), dict):
        config["model"] |= {"base": base.called, "revision": base.revision}
    if plan is not None:
        about = {"made_by": scrub(plan.made_by), "cost": scrub(plan.cost)}
        plan = replace(plan, base_model=base.name, revision=base.revision, **about)
    datasets, questions = _data_of(run, raw)
    return Published(kind, base, _results_of(run, base), config, plan, repo_id, license, datasets, questions)


def write_about(folder: Path, run: RunFolder, published: Published, scores: Scores | None) -> None:
    """Write the plan, the card with its picture, and what the run's own files say."""
    if published.plan is not None:
        published.plan.save(folder / PLAN)
    if scores is not None:
        published.heat_map = HEAD_MAP
        _write_picture(folder / HEAD_MAP, scores, published.plan)
    write_text(folder / RESULTS, json.dumps(published.results, indent=2) + "\n")
    if published.config:
        write_text(folder / CONFIG, _config_text(run, published.config))
    write_card(folder / CARD, published)


# -- what is read ------------------------------------------------------------------------------------------------------
def _adapter_of(run: RunFolder, adapter: str | Path | None) -> Path | None:
    """The adapter to publish; None for a plan alone."""
    if not run.path.is_dir():
        raise UserError(f"{run}: no such folder, expected the folder of a finished run")
    if (run.path / ADAPTER_CONFIG).is_file():
        raise UserError(f"{run}: is an adapter's folder already, expected the folder of a finished run")
    if adapter is None and run.model.is_dir():
        raise UserError(
            f"{run}: holds a full finetune in {run.model.name}/, expected an adapter or a plan alone: "
            f"yopo-train merge {run} OUT makes a complete folder of it"
        )
    folder = Path(adapter) if adapter is not None else run.adapter
    if adapter is None and not folder.is_dir():
        if not run.plan.is_file():
            raise UserError(f"{run}: holds no adapter/ and no {PLAN}, expected the folder of a finished run")
        return None
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: no {name} in it, expected an adapter folder")
    return folder


def _results_of(run: RunFolder, base: Base) -> dict[str, Any]:
    """results.json without local paths; each benchmark's score names its base model, too."""
    results = scrub(run.results())
    stages = results.get("benchmarks")
    for found in stages.values() if isinstance(stages, dict) else ():
        for score in found.values() if isinstance(found, dict) else ():
            if isinstance(score, dict) and "model" in score:
                score |= {"model": base.called, "revision": base.revision}
    return results


def _data_of(run: RunFolder, config: dict[str, Any]) -> tuple[list[str], str]:
    """Hub ids of the data, and what the run's own questions are called."""
    data = config.get("data") if isinstance(config.get("data"), dict) else {}
    train = [entry.get("path") for entry in data.get("train") or () if isinstance(entry, dict)]
    names = [name for name in (data.get("path"), *train) if isinstance(name, str) and name]

    def is_local(name: str) -> bool:
        return bool(WHOLE.fullmatch(name)) or any((place / name).exists() for place in (Path.cwd(), started_in(run)))

    hub = [name for name in names if name.count("/") == 1 and is_hub_id(name) and not is_local(name)]
    return list(dict.fromkeys(hub)), last_name(names[0]) if names else "the run's own questions"


# -- what is written ---------------------------------------------------------------------------------------------------
def _check_destination(run: RunFolder, out: Path) -> None:
    there = out.resolve()
    for own in (run.path, run.adapter, run.model, run.checkpoints, run.logs, run.predictions):
        if there == own.resolve() or there in own.resolve().parents:
            raise UserError(f"{out}: is, or holds, {own} of the run, expected a folder of its own")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file, expected a folder")
    others = sorted(path.name for path in out.iterdir() if path.name not in FILES) if out.exists() else []
    if others:
        raise UserError(f"{out}: holds {others[0]}, which is no part of an exported run, expected a new folder")


def _write_adapter(folder: Path, adapter: Path, base: Base) -> None:
    about = read_json(adapter / ADAPTER_CONFIG)
    if not isinstance(about, dict):
        raise UserError(f"{adapter / ADAPTER_CONFIG}: holds {type(about).__name__}, expected named settings")
    about |= {"base_model_name_or_path": base.name, "revision": base.revision}
    write_text(folder / ADAPTER_CONFIG, json.dumps(about, indent=2, sort_keys=True) + "\n")
    shutil.copyfile(adapter / ADAPTER_WEIGHTS, folder / ADAPTER_WEIGHTS)


def _write_scores(folder: Path, scores: Scores, base: Base) -> None:
    about = {"base_model": base.name, "revision": base.revision, "data_fingerprint": scrub(scores.data_fingerprint)}
    replace(scores, **about).save(folder / SCORES)


def _write_picture(path: Path, scores: Scores, plan: PruningPlan | None) -> None:
    """The head ratio's map."""
    from ..report.scoring import head_map  # loads matplotlib
    from ..report.style import png

    kept = (plan.heads, plan.depth) if plan is not None else ()
    write_bytes(path, png(head_map(scores.rho.mean(dim=0), *kept)))


def _config_text(run: RunFolder, config: dict[str, Any]) -> str:
    """config.yaml, its first line the command that made it."""
    first = run.config.read_text("utf-8").split("\n", 1)[0]
    command = f"{scrub(first)}\n" if first.startswith("#") else ""
    return command + yaml.safe_dump(config, sort_keys=False)
