"""SIGTERM and ctrl-C: at once where nothing would be lost, between two batches where training goes on."""

import atexit
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader

from yopo_train.pipeline.slurm import requeue, requeue_signal

TERMINATED = 128 + signal.SIGTERM
"""The exit code after SIGTERM: 143, as a shell gives it."""


@contextmanager
def terminable() -> Iterator[None]:
    """Turn SIGTERM into a `SIGTERMException`, so that what is half done is cleaned up as after ctrl-C.

    At the end it and SLURM's usual requeue signals have their former handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        for number, handler in former.items():
            if handler is not None:  # not Python's
                signal.signal(number, handler)


def terminated() -> int:
    """The exit code of this process after SIGTERM.

    0 in those that Lightning starts beside a first one: it would kill that one when another fails. torchrun and SLURM,
    which start all of them, hear the truth from each.
    """
    started_by_lightning = os.environ.get("LOCAL_RANK", "0") != "0" and not TorchElasticEnvironment.detect()
    return 0 if started_by_lightning else TERMINATED


def answer_signals(trainer: Trainer, launchers: list[Any]) -> None:
    """Have a signal's handler do only what a process can do alone, whatever it is in the middle of.

    Lightning's handler of SIGTERM waits for the other ranks, perhaps forever. Its handler of SLURM's requeue signal
    writes a checkpoint of its own into the run folder, which every stage would then load. That one is replaced within
    `terminable` only, which takes the replacement back.

    Parameters
    ----------
    launchers
        Those of the trainers before this one, of which the first has started the other processes. It gets this one's.
    """
    connector = trainer._signal_connector
    if trainer.strategy.launcher is not None:
        launchers.append(trainer.strategy.launcher)

    def pass_on(number: int, frame: Any) -> None:
        for launcher in launchers if not connector.received_sigterm else ():
            launcher.kill(number)
        connector.received_sigterm = True

    connector._sigterm_notifier_fn = pass_on
    number = requeue_signal(trainer)
    if number is None or signal.getsignal(signal.SIGTERM) is not _terminate:
        return
    if signal.getsignal(number) == signal.SIG_DFL:
        signal.signal(number, requeue)  # where there is a handler, Lightning adds none


class Signals:
    """Signals that training looks at when it can, in place of being interrupted in the middle of a step.

    They are SIGTERM, ctrl-C and SLURM's requeue signal.
    """

    def __init__(self) -> None:
        self.received = 0
        self._former: dict[int, Any] = {}

    def watch(self, trainer: Trainer) -> None:
        """From now on, until `leave`."""
        if threading.current_thread() is not threading.main_thread() or self._former:
            return
        wanted = [signal.SIGTERM, signal.SIGINT]
        if (number := requeue_signal(trainer)) is not None:
            wanted.append(number)
        self.received = 0
        self._former = {number: signal.signal(number, self._note) for number in wanted}

    def leave(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def hand_on(self) -> None:
        """`leave`; who has the signals then hears of one that came too late to be acted on."""
        self.leave()
        number, self.received = self.received, 0
        if number:
            signal.raise_signal(number)

    def act(self, number: int) -> None:
        """What the signal asks for, now that everything is saved."""
        if self.received == number:
            self.received = 0
        if number == signal.SIGTERM:
            raise SIGTERMException
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        former = self._former.get(number)
        (former if callable(former) else requeue)(number, None)  # the training goes on until SLURM ends it

    def _note(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT and self.received == number:
            raise KeyboardInterrupt
        if self.received != signal.SIGTERM:
            self.received = number


def spare_workers(trainer: Trainer) -> None:
    """Have processes that load data outlive what is sent to all processes of a program.

    That is ctrl-C in a terminal, to a process group, and SIGTERM from SLURM, to every process. Else the trainer would
    find them gone before it is where it can stop. Call it before the trainer makes its loaders.
    """
    process = trainer.strategy.process_dataloader

    def spared(loader: Any) -> Any:
        loader = process(loader)
        if isinstance(loader, DataLoader) and loader.worker_init_fn is None:
            loader.worker_init_fn = _outlive
        return loader

    trainer.strategy.process_dataloader = spared  # of this one trainer's strategy
    atexit.unregister(_end_loaders)
    atexit.register(_end_loaders)


def _outlive(worker: int) -> None:
    """Into a process group of its own, and past SIGTERM; without its main process, torch ends a worker anyway."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _end_loaders() -> None:
    """At the program's end: Python would send SIGTERM to whoever is still there, and wait for it."""
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


def _terminate(number: int, frame: Any) -> None:
    raise SIGTERMException
