"""Trainings that are killed (or terminated) at random points and started again, against one that nobody disturbs.

A program of its own: it imports everything once, never runs anything in parallel, and forks a process a run.

    python killed_runs.py FOLDER JOB...     with a job like '{"name": "plain", "kills": 10, "options": {}}'

Writes FOLDER/<name>.json: how many moments the undisturbed run had, at which ones the others were killed, and which of
them ended differently.
"""

import json
import os
import random
import resource
import signal
import sys
from collections.abc import Callable
from itertools import count, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.utils.tensorboard  # else imported in each of the processes
from forked import in_processes
from lightning.pytorch.utilities.exceptions import SIGTERMException
from ports import own_port
from toy_resume import ToyScore, course, train, weights

from yopo_train.pipeline import checkpoints
from yopo_train.pipeline.loggers import MetricsFile
from yopo_train.pipeline.signals import TERMINATED
from yopo_train.recovery import YopoModule
from yopo_train.recovery.checkpoint_state import ExactResume

SEED = 6
SECONDS = 0.02
"""Between two looks at the clock."""


class Clock:
    """Counts the moments of a training, and sends the process a signal in the one that is wanted."""

    def __init__(self, last: int | None, number: int) -> None:
        self.last, self.number, self.now = last, number, 0

    def tick(self) -> None:
        self.now += 1
        if self.now == self.last:
            os.kill(os.getpid(), self.number)

    def around(self, owner: Any, name: str) -> None:
        """A moment before and one after each call."""
        work = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            self.tick()
            result = work(*args, **kwargs)
            self.tick()
            return result

        setattr(owner, name, watched)

    def start(self) -> None:
        """Moments between and within steps, while files are written, renamed and logged to, and in validations."""
        for owner, name in (
            (YopoModule, "training_step"),
            (YopoModule, "on_before_optimizer_step"),
            (torch.optim.AdamW, "step"),
            (ExactResume, "on_train_batch_end"),
            (MetricsFile, "log_metrics"),
            (ToyScore, "on_validation_epoch_end"),
            (os, "replace"),
            (os, "fsync"),
        ):
            self.around(owner, name)
        save = torch.save

        def half_a_file(content: Any, file: Any, **options: Any) -> None:
            if isinstance(content, dict):  # and no tensor that is sent to another process
                file.write(b"half")
                file.flush()
                self.tick()
                file.seek(0)
            save(content, file, **options)

        torch.save = half_a_file


def forked(number: int, work: Callable[[], Any], log: Path) -> list[int]:
    """`in_processes`, which find each other where there are several."""
    variables: list[dict[str, Any]] = [{}]
    if number > 1:
        place = {"MASTER_ADDR": "localhost", "MASTER_PORT": own_port(), "WORLD_SIZE": number, "NODE_RANK": 0}
        variables = [place | {"LOCAL_RANK": rank} for rank in range(number)]
    return in_processes(variables, lambda rank: work(), [log] * number)


def do(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One job: the undisturbed run, then the others."""
    log, ranks, number = folder / f"{job['name']}.log", job.get("ranks", 1), job.get("signal", signal.SIGKILL)
    parallel = {"strategy": "ddp", "devices": ranks} if ranks > 1 else {}
    whole = folder / f"{job['name']}-whole"

    def training(run: Path, last: int | None = None, killed_rank: int = 0) -> Callable[[], int]:
        def work() -> int:
            rank = int(os.environ.get("LOCAL_RANK", 0))
            # moments have to be the same in all runs; only the first rank's clock says when minutes are over
            ticks = count() if rank == 0 else repeat(0)
            checkpoints.time = SimpleNamespace(monotonic=lambda: SECONDS * next(ticks))
            clock = Clock(last if rank == killed_rank else None, number)
            clock.start()
            try:
                module = train(run, **{"every": 2} | parallel | job["options"])
            except SIGTERMException:
                return TERMINATED
            (run / f"weights-{rank}").write_bytes(b"".join(w.numpy().tobytes() for w in weights(module).values()))
            if run == whole:
                (run / f"moments-{rank}").write_text(str(clock.now))
            return 0

        return work

    def outcome(run: Path) -> list[Any]:
        return [course(run), *((run / f"weights-{rank}").read_bytes() for rank in range(ranks))]

    codes = forked(ranks, training(whole), log)
    if any(codes):
        return {"codes": codes, "log": log.read_text()[-3000:]}
    expected, chance = outcome(whole), random.Random(SEED)
    moments = [int((whole / f"moments-{rank}").read_text()) for rank in range(ranks)]
    found: dict[str, Any] = {"moments": moments, "lines": len(expected[0]), "kills": [], "wrong": []}
    for turn in range(job["kills"]):
        run, rank = folder / f"{job['name']}-{turn}", chance.randrange(ranks)
        last = chance.randint(1, moments[rank])
        killed = forked(ranks, training(run, last, rank), log)
        left = sorted(path.name for path in run.rglob("*") if ".ckpt" in path.name)
        codes = forked(ranks, training(run), log)
        if any(codes) or (number == signal.SIGKILL and -number not in killed):
            return found | {"codes": [killed, codes], "log": log.read_text()[-3000:]}
        found["kills"].append([last, rank, left, killed])
        got = outcome(run)
        if got != expected:
            lines = [pair for pair in zip(got[0], expected[0], strict=False) if pair[0] != pair[1]]
            found["wrong"].append([last, len(got[0]), len(expected[0]), lines[:2], got[1:] == expected[1:]])
    return found | {"cpu_seconds": resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime}


if __name__ == "__main__":
    place, *jobs = sys.argv[1:]
    torch.set_num_threads(1)
    for text in jobs:
        wanted = json.loads(text)
        (Path(place) / f"{wanted['name']}.json").write_text(json.dumps(do(wanted, Path(place)), indent=1))
