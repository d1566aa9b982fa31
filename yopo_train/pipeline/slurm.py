"""SLURM's signal that a job's time is nearly over, upon which the job is queued again."""

import multiprocessing
import os
import signal
import subprocess
import warnings
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment

from yopo_train.ranks import is_first_rank


def requeue_signal(trainer: Trainer) -> int | None:
    """Which signal it is (``sbatch --signal``); None outside of SLURM, and where nothing is to be queued again."""
    environment = trainer._accelerator_connector.cluster_environment
    if not isinstance(environment, SLURMEnvironment) or not environment.auto_requeue:
        return None
    return environment.requeue_signal or signal.SIGUSR1


def requeue(number: int, frame: Any) -> None:
    """A handler: have SLURM end this job and queue it again, where the same command goes on.

    The first process asks for it. Its data loading processes, which have its handlers, do not.
    """
    if not is_first_rank() or multiprocessing.parent_process() is not None:
        return
    array, job = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_JOB_ID", "")
    job = job if array is None else f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=30)
        reason = done.stderr.strip() if done.returncode else None
    except OSError as error:
        reason = f"scontrol: {error.strerror}"
    except subprocess.TimeoutExpired:
        reason = "scontrol did not answer within 30 s"
    if reason is not None:
        warnings.warn(f"SLURM job {job} could not be queued again: {reason}", stacklevel=2)
