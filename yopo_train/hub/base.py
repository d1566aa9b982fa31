"""What a published folder calls its base model: a Hub id and a revision, never a local path."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..calibration.scores import Scores
from ..errors import UserError
from ..plan import PruningPlan
from ..run_folder import RunFolder
from .private import WHOLE, last_name

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Base:
    """A base model as others know it.

    Parameters
    ----------
    name, revision
        Hub id, and the commit (or tag, or branch) that was used. Both None for a local folder that nobody has named.
    called
        What people read: the Hub id, or what the local folder is called.
    """

    name: str | None
    revision: str | None
    called: str


def base_of(
    run: RunFolder, plan: PruningPlan | None = None, scores: Scores | None = None, named: str | None = None
) -> Base:
    """The base model of a run.

    Parameters
    ----------
    plan, scores
        Of the run: they may know which commit was loaded.
    named
        The Hub id that the user gives to a base that was a local folder.

    Raises
    ------
    UserError
        ``named`` is no Hub id, or not that of a run whose base came from the Hub.
    """
    found, revision = configured_base(run)
    folder = local_folder(run, found)
    if folder is None and scores is not None and not any(about.revision for about in (plan, scores) if about):
        folder = last_name(found)  # of a base from the Hub calibration records the commit
    if named is not None:
        check_hub_id(named, "base_model")
        if folder is None and named != found:
            raise UserError(f"base_model is {named}, but {run} was made from {found} of the Hub")
    if folder is not None:
        return Base(named, None, named or folder)
    commits = [about.revision for about in (plan, scores) if about is not None and about.revision]
    return Base(found, next(filter(COMMIT.fullmatch, commits), revision), found)


def configured_base(run: RunFolder) -> tuple[str, str | None]:
    """``model.base`` and ``model.revision`` of a run's config.yaml.

    Raises
    ------
    UserError
        No config.yaml, or none that names a base.
    """
    model: Any = run.read_config().get("model")
    base = model.get("base") if isinstance(model, dict) else None
    if not isinstance(base, str) or not base:
        raise UserError(f"{run.config}: model.base is {base!r}, expected the base model of a run")
    revision = model.get("revision")
    return base, revision if revision is None else str(revision)


def local_folder(run: RunFolder, base: str) -> str | None:
    """What the base's local folder is called; None where the base is a Hub id."""
    is_local = WHOLE.fullmatch(base) or base.startswith(".") or not is_hub_id(base) or base_folder(run, base).is_dir()
    return (last_name(base) or base) if is_local else None


def base_folder(run: RunFolder, base: str) -> Path:
    """Where a base would lie that is a local folder: a relative path starts from where the run was started."""
    path = Path(base).expanduser()
    if path.is_absolute() or path.is_dir():
        return path
    return started_in(run) / path


def started_in(run: RunFolder) -> Path:
    """The folder in which the run was started, as far as its own path tells; else the one that one is in now."""
    spelled = run.read_config().get("run_dir") if run.config.is_file() else None
    parts = Path(spelled).parts if isinstance(spelled, str) and not Path(spelled).is_absolute() else ()
    there = run.path.resolve()
    if parts and ".." not in parts and there.parts[-len(parts) :] == parts:
        return there.parents[len(parts) - 1]
    return Path.cwd()


def is_hub_id(name: str) -> bool:
    """Whether the Hub could have a repository of this name."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def check_hub_id(name: str, key: str) -> None:
    """Raise a ``UserError`` for what is no Hub id."""
    if not is_hub_id(name):
        raise UserError(f"{key} is {name!r}, expected a Hub id, like llava-hf/llava-1.5-7b-hf")
