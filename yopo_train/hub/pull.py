"""Fetch an exported run from the Hugging Face Hub, and look through it before anybody uses it."""

import filecmp
import shutil
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from yopo_train.errors import UserError
from yopo_train.hub.connection import cause_of, check_repo_id, one_line_errors, persistently
from yopo_train.hub.safety import PATTERNS, check_folder, check_names, check_size
from yopo_train.run_folder import new_folder

NEEDED = ("plan.safetensors", "adapter_config.json")


def snapshot(repo_id: str, revision: str | None = None) -> Path:
    """A repository's files in the cache of huggingface_hub, fetched where they are not there yet, and looked through.

    Where there is no connection, or with HF_HUB_OFFLINE, the cache serves.

    Parameters
    ----------
    repo_id
        As ``user/name``.
    revision
        Branch, tag, commit or ``refs/pr/1``; None is main.

    Returns
    -------
    Path
        A folder that others share: it is only to be read, and may hold files besides those that `check_folder` names.

    Raises
    ------
    UserError
        No such repository, no right to read it, neither connection nor cache, a full disk, or content that
        `check_folder` refuses.
    """
    repo_id = check_repo_id(repo_id, "repository")
    with one_line_errors("pull", repo_id):
        folder = persistently(lambda: _fetched_or_cached(repo_id, revision), repo_id)
    check_folder(folder)
    return folder


def pull(repo_id: str, out: str | Path, revision: str | None = None) -> bool:
    """Copy a repository's exported run into a new folder.

    Returns
    -------
    bool
        Whether anything was written: not where ``out`` has just these files already.

    Raises
    ------
    UserError
        See `snapshot`; or ``out`` is there with other content, or cannot be written.
    """
    from yopo_train.hub import folder  # loads torch

    source, out = snapshot(repo_id, revision), Path(out)
    names = check_folder(source)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        if _is_same(source, out, names):
            return False
        raise UserError(f"{out}: is there already with other content than {repo_id}, expected a new folder")
    with new_folder(out) as temporary:
        for name in names:
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, temporary / name)
        folder.check(temporary)
    return True


def _fetched_or_cached(repo_id: str, revision: str | None) -> Path:
    try:
        return _fetch(repo_id, revision)
    except (HTTPError, OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        cause = cause_of(error)
        if isinstance(cause, HfHubHTTPError) and cause.response.status_code < 500:
            raise
        try:
            return Path(snapshot_download(repo_id, revision=revision, allow_patterns=PATTERNS, local_files_only=True))
        except LocalEntryNotFoundError:
            raise cause from None


def _fetch(repo_id: str, revision: str | None) -> Path:
    """Look at the list of files first: names, sizes, and whether they have room."""
    info = HfApi().repo_info(repo_id, revision=revision, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    names = check_names(sizes, repo_id)
    if not any(name in names for name in NEEDED):
        raise UserError(f"pull {repo_id}: holds no {' and no '.join(NEEDED)}, expected an exported run")
    for name in names:
        check_size(name, sizes[name], repo_id)
    new = [name for name in names if not isinstance(try_to_load_from_cache(repo_id, name, revision=info.sha), str)]
    _check_space(sum(sizes[name] for name in new), repo_id)
    return Path(snapshot_download(repo_id, revision=revision, allow_patterns=names))


def _check_space(needed: int, repo_id: str) -> None:
    """Refuse before the download what would fill the disk."""
    place = Path(constants.HF_HUB_CACHE)
    place = next(folder for folder in (place, *place.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise UserError(f"pull {repo_id}: takes {needed:,} bytes, but the disk of {place} has {free:,} left")


def _is_same(source: Path, out: Path, names: list[str]) -> bool:
    """Whether a folder holds just these files, byte for byte."""
    if not out.is_dir() or {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} != set(
        names
    ):
        return False
    return not any(filecmp.cmpfiles(source, out, names, shallow=False)[1:])
