"""The command on two processes, as torchrun or SLURM start them on two nodes, or torchrun on one.

A program of its own: it imports everything once, and forks two processes a run.

    python launched.py FOLDER RUN...     with a run like '{"name": "first", "by": "slurm", "args": ["fit", ...]}'

A run may have ``signals``: [optimizer step, signal's name, ranks] each; a rank's data loading processes get it too. And
``full``: the step whose checkpoint finds no room on the disk.
Exit codes are added to FOLDER/codes.json under the run's name; FOLDER/<name>.<rank>.log has what was printed.
"""

import errno
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.utils.tensorboard  # else imported in each of the processes
from forked import in_processes
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from ports import own_port

from yopo_train.cli import main
from yopo_train.pipeline import stages
from yopo_train.recovery import YopoModule

RANKS = (0, 1)


def torchrun(rank: int, nodes: int) -> dict[str, Any]:
    """What it sets: see torch/distributed/elastic/agent/server/local_elastic_agent.py."""
    local = 0 if nodes == 2 else rank
    return {
        "RANK": rank, "LOCAL_RANK": local, "GROUP_RANK": rank - local, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2 // nodes,
        "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": 0,
    }  # fmt: skip


def srun(rank: int) -> dict[str, Any]:
    """What it sets, as far as Lightning asks."""
    return {
        "SLURM_JOB_ID": 4711, "SLURM_JOB_NAME": "recover", "SLURM_NTASKS": 2, "SLURM_NTASKS_PER_NODE": 1,
        "SLURM_NNODES": 2, "SLURM_NODELIST": "127.0.0.1", "SLURM_PROCID": rank, "SLURM_LOCALID": 0,
        "SLURM_NODEID": rank,
    }  # fmt: skip


VARIABLES = {"two nodes": lambda rank: torchrun(rank, 2), "one node": lambda rank: torchrun(rank, 1), "slurm": srun}


def send(signals: Sequence[tuple[int, str, list[int]]], rank: int) -> None:
    """Have this process send itself signals at the beginning of steps."""
    wanted = [(step, getattr(signal, name)) for step, name, ranks in signals if rank in ranks]
    training_step = YopoModule.training_step

    def watched(self: YopoModule, batch: Any, batch_idx: int) -> Any:
        while wanted and self.global_step >= wanted[0][0]:
            number = wanted.pop(0)[1]
            for process in [*multiprocessing.active_children(), multiprocessing.current_process()]:
                os.kill(process.pid, number)
        return training_step(self, batch, batch_idx)

    YopoModule.training_step = watched


def fill_disk(step: int) -> None:
    """Have the disk be full when the checkpoint of this step is written."""
    save = torch.save

    def full(content: Any, *args: Any, **options: Any) -> None:
        if isinstance(content, dict) and content.get("global_step") == step:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(content, *args, **options)

    torch.save = full


def do(run: dict[str, Any], folder: Path) -> list[int]:
    """Exit codes by rank."""

    def work(rank: int) -> int:
        rank_zero_only.rank = rank  # what Lightning takes from the variables when it is imported
        send(run.get("signals", ()), rank)
        fill_disk(run.get("full", -1))
        return main(run["args"])

    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": own_port()}
    variables = [VARIABLES[run["by"]](rank) | place for rank in RANKS]
    return in_processes(variables, work, [folder / f"{run['name']}.{rank}.log" for rank in RANKS])


if __name__ == "__main__":
    torch.set_num_threads(1)
    stages.BENCH_REPEATS = stages.BENCH_BATCH = 1
    place = Path(sys.argv[1])
    found = {}
    for wanted in map(json.loads, sys.argv[2:]):
        found[wanted["name"]] = do(wanted, place)
        (place / "codes.json").write_text(json.dumps(found))
