"""Strategies that shard the model are for training; whatever only reads has all of it on each process."""

from typing import Any

from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

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


def _refused(found: str) -> UserError:
    return UserError(f"trainer.strategy is {found}, expected ddp, deepspeed, or FSDP2 (configs/strategies/fsdp2.yaml)")
