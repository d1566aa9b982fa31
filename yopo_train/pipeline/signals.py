"""SIGTERM and ctrl-C: at once where nothing would be lost, between two batches where training goes on."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader

TERMINATED = 128 + signal.SIGTERM
"""The exit code after SIGTERM: 143, as a shell gives it."""


@contextmanager
def terminable() -> Iterator[None]:
    """Turn SIGTERM into a `SIGTERMException`, so that what is half done is cleaned up as after ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


class Signals:
    """Signals that training looks at when it can, in place of being interrupted in the middle of a step.

    Lightning notes SIGTERM too, but tells the other ranks from within the signal handler, wherever they are; and saves
    for SLURM's requeue signal right there, perhaps between two weights of one update.
    """

    def __init__(self) -> None:
        self.received = 0
        self._former: dict[int, Any] = {}

    def watch(self, trainer: Trainer) -> None:
        """From now on, until `leave`."""
        if threading.current_thread() is not threading.main_thread() or self._former:
            return
        environment = trainer._accelerator_connector.cluster_environment
        wanted = [signal.SIGTERM, signal.SIGINT]
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            wanted.append(environment.requeue_signal or signal.SIGUSR1)
        self.received = 0
        self._former = {number: signal.signal(number, self._note) for number in wanted}

    def leave(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def act(self, number: int) -> None:
        """What the signal asks for, now that everything is saved."""
        if number == signal.SIGTERM:
            raise SIGTERMException
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = 0
        self._former[number](number, None)  # Lightning's: SLURM queues the job again, which goes on until it is ended

    def _note(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT and self.received == number:
            raise KeyboardInterrupt
        self.received = number


def spare_workers(trainer: Trainer) -> None:
    """Have processes that load data outlive what is sent to all processes of a program, like ctrl-C in a terminal.

    Else the trainer would find them gone before it is where it can stop. Call it before the trainer makes its loaders.
    """
    process = trainer.strategy.process_dataloader

    def spared(loader: Any) -> Any:
        loader = process(loader)
        if isinstance(loader, DataLoader) and loader.worker_init_fn is None:
            loader.worker_init_fn = _leave_group
        return loader

    trainer.strategy.process_dataloader = spared  # of this one trainer's strategy


def _leave_group(worker: int) -> None:
    """Into a process group of its own; when the main process is gone, torch ends a worker in any case."""
    os.setpgid(0, 0)


def _terminate(number: int, frame: Any) -> None:
    raise SIGTERMException
