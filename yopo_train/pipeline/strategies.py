"""Strategies that shard the model are for training; whatever only reads has all of it on each process."""

import os
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, Strategy

from yopo_train.errors import UserError
from yopo_train.recovery.sharding import FSDP2
from yopo_train.recovery.zero import DeepSpeed

ZERO_PRECISIONS = ("32-true", "bf16-mixed")
"""What DeepSpeed was run with: float16 has a loss scale that no checkpoint of ours keeps for it."""


def for_reading(strategy: Any) -> dict[str, str]:
    """The trainer's setting ``strategy`` where nothing is trained, if it is to be another one.

    Parameters
    ----------
    strategy
        As configured: a name, an object, or None.

    Raises
    ------
    UserError
        It shards in a way that is not supported.
    """
    name = strategy if isinstance(strategy, str) else ""
    if name.startswith(("fsdp", "deepspeed")):
        raise _refused(name)
    if isinstance(strategy, FSDP2 | DeepSpeed):
        return {"strategy": "ddp"}
    if isinstance(strategy, FSDPStrategy | ModelParallelStrategy | DeepSpeedStrategy):
        raise _refused(type(strategy).__name__)
    return {}


def check_processes(trainer: Trainer) -> None:
    """Compare what torchrun, SLURM or the like has started with what the trainer is told.

    Raises
    ------
    UserError
        The numbers differ: each process would do the whole run alone, or wait for others that do not come.
    """
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, LightningEnvironment):
        return
    started, devices, nodes = environment.world_size(), trainer.num_devices, trainer.num_nodes
    if trainer.world_size == 1 and isinstance(environment, SLURMEnvironment) and "SLURM_STEP_ID" not in os.environ:
        return  # in a job of several tasks, but not started by srun: there is only this process
    if started != trainer.world_size:
        kind = type(environment).__name__.removesuffix("Environment")
        raise UserError(
            f"trainer.devices {devices} times trainer.num_nodes {nodes} is {trainer.world_size}, "
            f"expected {started}: so many processes {kind} has started"
        )
    if trainer.strategy.launcher is not None:
        try:
            environment.validate_settings(num_devices=devices, num_nodes=nodes)
        except ValueError as error:
            raise UserError(f"section trainer: {' '.join(str(error).split())}") from None


def check_strategy(trainer: Trainer, limit_val_batches: Any, benchmarks: Sequence[str], optimizer: str) -> None:
    """Refuse what a strategy cannot have in a training.

    Parameters
    ----------
    trainer
        One that would train.
    limit_val_batches
        As configured.
    benchmarks
        What is to be scored meanwhile.
    optimizer
        Its name.

    Raises
    ------
    UserError
        The first that it cannot have.
    """
    if isinstance(trainer.strategy, DeepSpeed):
        _check_deepspeed(trainer, optimizer)
    if isinstance(trainer.strategy, FSDP2):
        _check_fsdp2(limit_val_batches, benchmarks)


def _check_deepspeed(trainer: Trainer, optimizer: str) -> None:
    if not isinstance(trainer.accelerator, trainer.strategy.runs_on):
        raise UserError("trainer.strategy is DeepSpeed, which needs NVIDIA GPUs: expected ddp or FSDP2 without any")
    if trainer.precision not in ZERO_PRECISIONS:
        expected = " or ".join(ZERO_PRECISIONS)
        raise UserError(f"trainer.precision is {trainer.precision}, expected {expected} with DeepSpeed")
    if trainer.gradient_clip_algorithm not in (None, "norm"):
        found = str(trainer.gradient_clip_algorithm.value)
        raise UserError(f"trainer.gradient_clip_algorithm is {found}, expected norm with DeepSpeed")
    if optimizer != "adamw":
        raise UserError(
            f"model.optimizer.name is {optimizer}, expected adamw with DeepSpeed, which makes vectors of all weights"
        )


def _check_fsdp2(limit_val_batches: Any, benchmarks: Sequence[str]) -> None:
    """Answers that processes with shards of the model would generate differ in length: one would wait forever."""
    if limit_val_batches != 0:
        raise UserError(
            f"trainer.limit_val_batches is {limit_val_batches}, expected 0: FSDP2 has no scores in training"
        )
    if benchmarks:
        raise UserError(
            f"evaluation.every_n_steps asks for {', '.join(benchmarks)}, expected null: FSDP2 has no scores in training"
        )


def check_averages(strategy: Strategy, callbacks: Sequence[Callback]) -> None:
    """Refuse averages of weights where what a process has is not, or not all of, what is trained.

    Raises
    ------
    UserError
        Names the callback.
    """
    for callback in callbacks if isinstance(strategy, DeepSpeed | FSDP2) else ():
        if isinstance(callback, WeightAveraging | StochasticWeightAveraging):
            name, by = type(callback).__name__, type(strategy).__name__
            raise UserError(f"trainer.callbacks has {name}, expected no average of the weights with {by}")


def _refused(found: str) -> UserError:
    files = "FSDP2 or DeepSpeed as configs/strategies/fsdp2.yaml and deepspeed.yaml have them"
    return UserError(f"trainer.strategy is {found}, expected ddp, or {files}")
