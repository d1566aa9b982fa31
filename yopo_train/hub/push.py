"""Push an exported run to the Hugging Face Hub: one commit, however often the network fails on the way."""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

from yopo_train.errors import UserError
from yopo_train.hub.connection import (
    NO_TOKEN,
    check_repo_id,
    is_lost,
    is_passing,
    one_line_errors,
    persistently,
)
from yopo_train.hub.options import HubOptions, check_revision

OURS = ("adapter_config.json", "adapter_model.safetensors", "plan.safetensors", "scores.safetensors")
"""Files of an earlier push that go where this one has none of the name: a plan must not meet another run's adapter."""


def push(
    run: str | Path,
    target: HubOptions,
    dry_run: bool = False,
    adapter: Path | None = None,
    message: str | None = None,
) -> str:
    """Push a run folder, or a folder that is exported or merged already.

    Parameters
    ----------
    target
        Where to, and how the card calls it; its ``push`` and ``each_best`` are not asked.
    dry_run
        List what would be sent, and send nothing.
    adapter
        Another peft folder in place of the run's own.
    message
        Of the commit.

    Returns
    -------
    str
        The repository's URL, the pull request's, or, in a dry run, the list.

    Raises
    ------
    UserError
        The folder is not complete or not safe, or the Hub refuses; nothing was changed there then.
    """
    run = Path(run)
    check_repo_id(target.repo_id, "--repo_id")
    check_revision(target.revision, target.create_pr, "--revision")
    with tempfile.TemporaryDirectory() as place:
        ready, names = _exported(run, Path(place) / "folder", target, adapter)
        if dry_run:
            return listing(ready, names, target.repo_id)
        return send(ready, names, target, message or f"Push {run.resolve().name}")


def _exported(run: Path, out: Path, target: HubOptions, adapter: Path | None) -> tuple[Path, list[str]]:
    """The folder to send, checked, and the names of its files: the run itself, or made at ``out``."""
    from yopo_train.hub import contents, folder  # loads torch

    if not contents.is_exported(run):
        about = {"base_model": target.base_model, "license": target.license, "repo_id": target.repo_id}
        run = folder.export(run, out, adapter=adapter, **about)
    elif target.base_model or target.license:
        raise UserError(f"{run} has a card already, expected a run folder with --base_model or --license")
    return run, list(folder.check(run, publish=True).files)


def listing(folder: Path, names: list[str], repo_id: str) -> str:
    """Names and sizes of what would be sent, a line each."""
    sizes = {name: (folder / name).stat().st_size for name in names}
    lines = [f"{size:>14,}  {name}" for name, size in sizes.items()]
    return "\n".join([*lines, f"{sum(sizes.values()):>14,}  bytes in {len(names)} files would go to {repo_id}"])


def send(folder: Path, names: list[str], target: HubOptions, message: str) -> str:
    """One commit with these files; the repository and the branch are made where they do not exist.

    Raises
    ------
    UserError
        One line of what the Hub or the network refused.
    """
    repo_id = check_repo_id(target.repo_id, "repo_id")
    if get_token() is None:
        raise UserError(f"push {repo_id}: {NO_TOKEN}")
    api = HfApi()
    with one_line_errors("push", repo_id):
        persistently(lambda: _prepare(api, target), repo_id)
        branch = target.revision or "main"
        there = persistently(lambda: api.list_repo_files(repo_id, revision=branch), repo_id)
        stale = [name for name in OURS if name in there and name not in names]
        # a pull request whose answer is lost may be there: a second try would open a second one
        again = (lambda error: is_passing(error) and not is_lost(error)) if target.create_pr else is_passing

        def commit(by_lfs: bool) -> str:
            with ExitStack() as files:
                operations = [CommitOperationAdd(name, _source(folder / name, by_lfs, files)) for name in names]
                done = api.create_commit(
                    repo_id,
                    [*operations, *(CommitOperationDelete(name) for name in stale)],
                    commit_message=message,
                    revision=None if target.create_pr else branch,
                    create_pr=target.create_pr,
                )
                return done.pr_url or f"{api.endpoint}/{repo_id}" + (f"/tree/{branch}" if branch != "main" else "")

        return persistently(lambda: _with_either_storage(commit), repo_id, again)


def _prepare(api: HfApi, target: HubOptions) -> None:
    """Repository and branch, and no public repository where a private one is asked for."""
    repo_id = target.repo_id
    api.create_repo(repo_id, private=target.private or None, exist_ok=True)
    if target.private and not api.repo_info(repo_id).private:
        raise UserError(f"push {repo_id}: is there already and public, expected a private one; nothing was sent")
    if target.revision and target.revision != "main":
        api.create_branch(repo_id, branch=target.revision, exist_ok=True)


def _with_either_storage(commit: Callable[[bool], str]) -> str:
    """By xet, or by git-LFS where the server has no xet: huggingface_hub tries only the one.

    It takes open files to LFS, and fails on paths with an error of the xet library's.
    """
    try:
        return commit(False)
    except (HTTPError, OfflineModeIsEnabled):
        raise
    except (ConnectionError, RuntimeError) as error:
        if isinstance(error.__cause__, HfHubHTTPError | HTTPError):
            raise
        return commit(True)


def _source(path: Path, by_lfs: bool, files: ExitStack):
    return files.enter_context(path.open("rb")) if by_lfs else path


def push_or_tell(run: Path, target: HubOptions, adapter: Path | None = None, message: str | None = None) -> None:
    """Push as a part of a run, which fails for nothing: one line says what came of it.

    Parameters
    ----------
    adapter, message
        As in `push`.
    """
    try:
        print(f"pushed: {push(run, target, adapter=adapter, message=message)}", flush=True)
    except Exception as error:  # a run of hours must not end for whatever goes wrong here
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        later = "" if adapter is not None else f"; the run is complete, push it later with: {target.command(str(run))}"
        print(f"not pushed: {' '.join(reason.split())}{later}", flush=True)
