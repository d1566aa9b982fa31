"""Several processes of one program, forked: each has everything imported already."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def in_processes(variables: Sequence[Mapping[str, Any]], work: Callable[[int], int], logs: Sequence[Path]) -> list[int]:
    """Fork processes, as a launcher would, and wait; when a signal ends one, the others are killed too.

    Parameters
    ----------
    variables
        Of the environment, for each.
    work
        Called with a process's number; returns its exit code.
    logs
        Files that what they print is added to.

    Returns
    -------
    list of int
        Exit codes; minus the signal's number for those that one ended.
    """
    ranks = {_start(variables[rank], work, rank, logs[rank]): rank for rank in range(len(variables))}
    codes, left = [0] * len(ranks), set(ranks)
    while left:
        process, status = os.wait()
        left.discard(process)
        codes[ranks[process]] = os.waitstatus_to_exitcode(status)
        if os.WIFSIGNALED(status):
            for other in left:
                os.kill(other, signal.SIGKILL)
    return codes


def _start(variables: Mapping[str, Any], work: Callable[[int], int], rank: int, log: Path) -> int:
    process = os.fork()
    if process:
        return process
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update({name: str(value) for name, value in variables.items()})
    code = 99
    try:
        code = work(rank)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
