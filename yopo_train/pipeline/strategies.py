"""Strategies that shard the model are for training; whatever only reads has all of it on each process."""

import os
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, Strategy

from yopo_train.errors import UserError
from yopo_train.recovery.sharding import FSDP2


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
    if name.startswith("fsdp") or isinstance(strategy, FSDPStrategy):
        raise _refused(name or "FSDPStrategy")
    if isinstance(strategy, ModelParallelStrategy) and not isinstance(strategy, FSDP2):
        raise _refused(type(strategy).__name__)
    shards = name.startswith("deepspeed") or isinstance(strategy, FSDP2 | DeepSpeedStrategy)
    return {"strategy": "ddp"} if shards else {}


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


def check_strategy(strategy: Strategy, limit_val_batches: Any, benchmarks: Sequence[str]) -> None:
    """Refuse what a strategy cannot have in a training.

    Raises
    ------
    UserError
        DeepSpeed without a GPU. Or answers that processes with shards of the model would generate: as they differ in
        length, one would wait for another's shards forever.
    """
    if isinstance(strategy, DeepSpeedStrategy) and not isinstance(strategy.accelerator, CUDAAccelerator):
        raise UserError("trainer.strategy is DeepSpeed, which needs NVIDIA GPUs: expected ddp or FSDP2 without any")
    if not isinstance(strategy, FSDP2):
        return
    if limit_val_batches != 0:
        raise UserError(
            f"trainer.limit_val_batches is {limit_val_batches}, expected 0: FSDP2 has no scores in training"
        )
    if benchmarks:
        raise UserError(
            f"evaluation.every_n_steps asks for {', '.join(benchmarks)}, expected null: FSDP2 has no scores in training"
        )


def _refused(found: str) -> UserError:
    return UserError(f"trainer.strategy is {found}, expected ddp, deepspeed, or FSDP2 (configs/strategies/fsdp2.yaml)")
