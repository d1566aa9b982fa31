"""What `load` was asked for: a run, a published folder, a merged model or a plain base; here or on the Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..calibration.scores import Scores
from ..data.images import ImageSizing
from ..errors import UserError
from ..plan import PruningPlan
from ..run_folder import RunFolder
from .base import base_folder, base_of, configured_base
from .contents import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MODEL_CONFIG, PLAN, check, is_exported

MARKS = (ADAPTER_CONFIG, PLAN)
"""Files that a plain base model does not have."""


@dataclass(frozen=True)
class Source:
    """What has to be loaded.

    Parameters
    ----------
    name
        What the user asked for.
    base, revision
        Hub id or folder of the weights, None where nothing names them; and their revision on the Hub.
    plan, scores, adapter
        None where there is none; the last is a folder.
    run
        Folder of the run's results.json and config.yaml: the run's own, or a published one. None for a complete model.
    is_finetuned
        Whether ``base`` is what the run's full finetune made.
    """

    name: str
    base: str | None
    revision: str | None = None
    plan: PruningPlan | None = None
    scores: Scores | None = None
    adapter: Path | None = None
    run: RunFolder | None = None
    is_finetuned: bool = False

    @property
    def is_quantized(self) -> bool:
        """Whether the run had the base in 4 or 8 bits."""
        return self._configured("model").get("quantization") is not None

    @property
    def sizing(self) -> ImageSizing:
        """What the run did to images before the processor saw them."""
        data = self._configured("data")
        largest = data.get("max_pixels")
        return ImageSizing(largest if isinstance(largest, int) else None, data.get("letterbox") is True)

    def _configured(self, section: str) -> dict[str, Any]:
        """A section of the run's configuration, empty where there is none."""
        found = self.run.read_config().get(section) if self.run is not None and self.run.config.is_file() else None
        return found if isinstance(found, dict) else {}


def find(path: str | Path, revision: str | None = None) -> Source:
    """Look at what there is; a published folder on the Hub is fetched, weights of a model are not.

    Raises
    ------
    UserError
        An unfinished run, or a damaged folder.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return _local(folder)
    name = str(path)
    marks = {} if name.startswith((".", "/", "~")) else {mark: _fetch(name, mark, revision) for mark in MARKS}
    if not any(marks.values()):
        return Source(name, name, revision)
    is_merged = marks[ADAPTER_CONFIG] is None and _fetch(name, MODEL_CONFIG, revision) is not None
    if is_merged:  # transformers fetches its weights
        return Source(name, name, revision, _checked_plan(marks[PLAN]))
    from .pull import snapshot

    return _published(snapshot(name, revision), name)


def _local(folder: Path) -> Source:
    name, run = str(folder), RunFolder(folder)
    if (folder / ADAPTER_CONFIG).is_file():
        return _published(folder, name)
    if (folder / MODEL_CONFIG).is_file():
        plan = folder / PLAN
        return Source(name, name, plan=_checked_plan(plan) if plan.is_file() else None)
    if run.config.is_file() and not is_exported(folder):
        return _run(run)
    return _published(folder, name) if (folder / PLAN).is_file() else Source(name, name)


def _run(run: RunFolder) -> Source:
    plan = PruningPlan.load(run.plan) if run.plan.is_file() else None
    if run.model.is_dir():
        return Source(str(run), str(run.model), plan=plan, run=run, is_finetuned=True)
    adapter = run.adapter if (run.adapter / ADAPTER_WEIGHTS).is_file() else None
    if plan is None and adapter is None:
        raise UserError(f"{run}: holds no {PLAN}, no adapter/ and no model/ yet, expected the folder of a finished run")
    scores = Scores.load(run.scores) if run.scores.is_file() else None
    known = base_of(run, plan, scores)
    base = known.name or str(base_folder(run, configured_base(run)[0]))
    return Source(str(run), base, known.revision, plan, scores, adapter, run)


def _published(folder: Path, name: str) -> Source:
    found = check(folder)
    adapter = folder if found.kind == "adapter" else None
    return Source(name, found.base_model, found.revision, found.plan, found.scores, adapter, RunFolder(folder))


def _checked_plan(path: Path | str) -> PruningPlan:
    from .safety import check_plan

    check_plan(path)
    return PruningPlan.load(path)


def _fetch(name: str, file: str, revision: str | None) -> str | None:
    """A file of a Hub repository, from the cache where there is no network; None where there is none.

    Whatever else is wrong, an unknown repository for one, the loading of the base model says better.
    """
    from transformers.utils import cached_file

    quiet = ("gated_repo", "missing_entries", "connection_errors")
    try:
        silent = {f"_raise_exceptions_for_{what}": False for what in quiet}
        return cached_file(name, file, revision=revision, **silent)
    except (OSError, ValueError):
        return None
