"""A training that ends while one that loads its data is stuck in C code: ``python stuck_worker.py FOLDER``.

Prints the number of the process that is stuck.
"""

import ctypes
import multiprocessing
import sys
from pathlib import Path

import torch
import toy_resume
from torch.utils.data import _utils

MINUTE = 60


def stuck_behind(limit: int) -> None:
    """Have the processes that load data get stuck in the batch with this number."""
    collate, seen = toy_resume.toy_rows, []

    def stuck(numbers: list[int]) -> dict:
        seen.append(numbers)
        if len(seen) == limit + 1:
            ctypes.PyDLL(None).sleep(10 * MINUTE)
        return collate(numbers)

    toy_resume.toy_rows = stuck


if __name__ == "__main__":
    torch.set_num_threads(1)
    _utils.MP_STATUS_CHECK_INTERVAL = 0.1  # seconds that torch waits for one to end
    stuck_behind(2)
    toy_resume.train(Path(sys.argv[1]), max_steps=1, workers=1, limit_val_batches=0, enable_checkpointing=True)
    (process,) = multiprocessing.active_children()
    print(process.pid)
