"""Writing the converted folder: shard by shard under a temporary name, renamed when it is complete."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors.torch import save_file

from ..progress import Bar
from ..run_folder import new_folder, write_text
from .files import check_disk
from .rules import Job


def write_model(folder: Path, jobs: Sequence[Job], write_rest: Callable[[Path], None]) -> None:
    """Write a model folder, or nothing.

    Memory holds one shard's output at a time.

    Parameters
    ----------
    folder : Path
        New or empty (`check_destination`).
    jobs : list of Job
        The weights.
    write_rest : callable
        Writes configuration and processor into the folder that it is given.

    Raises
    ------
    UserError
        The destination's disk is too small or not writable, or a shard turns out damaged.
    """
    folder = folder.resolve()  # a link to a folder on a larger disk stays a link
    check_disk(folder, sum(job.size for job in jobs))
    with new_folder(folder) as temporary, Bar("converting", "shards", len(jobs)) as bar:
        write_rest(temporary)
        weight_map: dict[str, str] = {}
        for number, job in enumerate(jobs, start=1):
            name = f"model-{number:05}-of-{len(jobs):05}.safetensors" if len(jobs) > 1 else "model.safetensors"
            weight_map |= dict.fromkeys(_write_shard(job, temporary / name), name)
            bar.advance()
        if len(jobs) > 1:
            index = {"metadata": {"total_size": sum(job.size for job in jobs)}, "weight_map": weight_map}
            write_text(temporary / "model.safetensors.index.json", json.dumps(index, indent=2, sort_keys=True) + "\n")


def _write_shard(job: Job, path: Path) -> list[str]:
    """One shard; its tensors are freed on return, before the next shard is read."""
    tensors = job.run()
    save_file(tensors, path, {"format": "pt"})
    return list(tensors)
