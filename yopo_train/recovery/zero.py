"""DeepSpeed's ZeRO stage 2: gradients and optimizer state in parts, one a process; each process has all weights.

Only training is so. The stages that read (calibration, scores) are as with DDP.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from itertools import count
from typing import Any

import torch
from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.strategies import DeepSpeedStrategy, Strategy
from torch import Tensor, nn
from torch.optim import Optimizer

from yopo_train.errors import UserError
from yopo_train.ranks import is_first_rank
from yopo_train.recovery.sharding import whole_on_first_rank

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of each weight."""


class DeepSpeed(DeepSpeedStrategy):
    """Lightning's strategy for DeepSpeed at ZeRO stage 2, with the steps and the checkpoints of DDP.

    A checkpoint is the file that it is with DDP, of trained weights in float32 and their optimizer in one piece.
    Lightning's is a folder that is written over in place, has the base's weights in it and is read without being
    compared to anything. And where batches are accumulated, Lightning's divides each one's loss by their number twice
    and begins to count anew in each epoch, where DeepSpeed does not.

    Parameters
    ----------
    reduce_bucket_size, allgather_bucket_size
        Numbers that are sent at once, even.
    overlap_comm
        Send gradients while others are computed.
    timeout
        Of a process that waits for another.

    Raises
    ------
    UserError
        DeepSpeed is not installed, or a number of numbers that it cannot send.
    """

    runs_on = (CUDAAccelerator,)
    """Lightning has DeepSpeed on these only."""

    def __init__(
        self,
        reduce_bucket_size: int = 200_000_000,
        allgather_bucket_size: int = 200_000_000,
        overlap_comm: bool = True,
        timeout: timedelta | None = default_pg_timeout,
    ) -> None:
        if find_spec("deepspeed") is None:
            raise UserError("trainer.strategy is DeepSpeed, which needs: pip install 'yopo_train[deepspeed]'")
        sizes = {"reduce_bucket_size": reduce_bucket_size, "allgather_bucket_size": allgather_bucket_size}
        for name, size in sizes.items():
            if size < 2 or size % 2:
                raise UserError(f"trainer.strategy.init_args.{name} is {size}, expected an even number >= 2")
        super().__init__(
            stage=2,
            overlap_comm=overlap_comm,
            timeout=timeout,
            **sizes,
            logging_batch_size_per_gpu=1,  # else asks a loader that has batches of one size
        )
        self._groups: list[dict[nn.Parameter, int]] = []
        """Weights as the optimizer has had them, with the numbers that they have with DDP."""
        self._frozen: dict[nn.Parameter, Tensor] = {}
        """What a full finetune saves untouched: DeepSpeed puts all weights into the type that it computes in."""

    # -- steps --------------------------------------------------------------------------------------------------------
    @property
    def handles_gradient_accumulation(self) -> bool:
        return False  # Lightning does: DeepSpeed is told where a step ends

    def _format_batch_size_and_grad_accum_config(self) -> None:
        super()._format_batch_size_and_grad_accum_config()
        self.config["gradient_accumulation_steps"] = 1
        self.config["data_types"] = {"grad_accum_dtype": "fp32"}

    def _setup_model_and_optimizer(self, model: nn.Module, optimizer: Optimizer, lr_scheduler: Any = None) -> Any:
        from deepspeed.utils import safe_set_full_fp32_param

        numbers = count()
        self._groups = [{weight: next(numbers) for weight in group["params"]} for group in optimizer.param_groups]
        trained = [*self.lightning_module.trainable().values()]
        saved = self.lightning_module.parameters() if self.lightning_module.tuning == "full" else trained
        before = {weight: weight.detach() for weight in saved}
        engine, zero = super()._setup_model_and_optimizer(model, optimizer, lr_scheduler)
        for weight in trained:  # DeepSpeed has taken them from what it computes in
            safe_set_full_fp32_param(weight, before.pop(weight).to(weight.device, torch.float32))
        self._frozen = before if is_first_rank() else {}
        _send_in_one_order(zero, trained)
        return engine, zero

    def pre_backward(self, closure_loss: Tensor) -> None:
        super().pre_backward(closure_loss)
        accumulates = self.lightning_module.trainer.fit_loop._should_accumulate()
        self.deepspeed_engine.set_gradient_accumulation_boundary(not accumulates)

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Nothing to block: each process adds up its own part of the gradients, to which others send theirs."""
        yield

    def own_gradients(self) -> list[Tensor]:
        """This process's parts of the gradients, averaged over the processes: before the optimizer's step only."""
        return [part for parts in self._zero.averaged_gradients.values() for part in parts]

    def on_train_end(self) -> None:
        """Leave all weights to save in float32, on the first process: before, they are as the precision has them."""
        from deepspeed.utils import safe_get_full_fp32_param

        for weight in self.lightning_module.trainable().values():
            whole = whole_on_first_rank(safe_get_full_fp32_param(weight))
            if whole is not None:
                weight.data = whole
        for weight, whole in self._frozen.items():
            weight.data = whole.to("cpu", torch.float32)

    # -- checkpoints --------------------------------------------------------------------------------------------------
    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Tensor]:
        """The trained weights in float32, on the first process; every process has to ask."""
        from deepspeed.utils import safe_get_full_fp32_param

        module = self.lightning_module
        whole = {
            name: whole_on_first_rank(safe_get_full_fp32_param(weight)) for name, weight in module.trainable().items()
        }
        return module.in_base_order(whole) if is_first_rank() else {}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """All of the optimizer's state in one piece, on the first process, under the numbers that it has with DDP."""
        from deepspeed.utils import safe_get_full_optimizer_state

        self._link_moments()
        own = self._zero.optimizer
        states, groups = {}, []
        for weights, group in zip(self._groups, own.param_groups, strict=True):
            (flat,) = group["params"]
            for weight, number in weights.items():
                moments = {name: whole_on_first_rank(safe_get_full_optimizer_state(weight, name)) for name in MOMENTS}
                step = own.state[flat]["step"].cpu().clone()  # AdamW counts in place, each weight for itself
                states[number] = {"step": step} | moments
            groups.append(group | {"params": list(weights.values())})
        return {"state": states, "param_groups": groups} if is_first_rank() else {}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write the file, as strategies do that shard nothing."""
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read the file, as strategies do that shard nothing."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        from deepspeed.utils import safe_set_full_fp32_param

        weights = self.lightning_module.trainable()
        with torch.no_grad():
            for name, value in self.lightning_module.in_plan_order(checkpoint["state_dict"]).items():
                weights[name].copy_(value)
                safe_set_full_fp32_param(weights[name], value.to(weights[name].device, torch.float32))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        (there,) = checkpoint["optimizer_states"]
        states = there["state"]  # with DDP, of weights that had a gradient
        own = self._zero.optimizer
        for group, group_there in zip(own.param_groups, there["param_groups"], strict=True):
            (flat,) = group["params"]
            group.update({name: value for name, value in group_there.items() if name != "params"})
            steps = [states[number]["step"] for number in group_there["params"] if number in states]
            if steps:
                own.state[flat] = {"step": max(steps)} | {name: torch.zeros_like(flat) for name in MOMENTS}
        own.load_state_dict(own.state_dict())  # puts the steps where the optimizer wants them
        self._link_moments()
        for weight, number in (pair for weights in self._groups for pair in weights.items()):
            for name in MOMENTS if number in states else ():
                safe_set_full_optimizer_state(weight, states[number][name].to(weight.device), name)

    # -- what DeepSpeed made of them ----------------------------------------------------------------------------------
    @property
    def _zero(self) -> Any:
        (optimizer,) = self.optimizers
        return optimizer

    def _link_moments(self) -> None:
        """Have DeepSpeed find each weight's moments: by itself it does so when only the first group's are there."""
        self._zero._hp_optimizer_states_linked = False
        self._zero._lazy_init_hp_params_optimizer_state()


def _send_in_one_order(zero: Any, weights: Sequence[nn.Parameter]) -> None:
    """Have DeepSpeed's optimizer send gradients from the last weight to the first, as DDP does, and zeros for none.

    By itself it sends them as they come, and none where none comes: with images in one process's batch only, sums would
    be of the gradients of different weights.
    """
    group_of = {weight: number for number, group in enumerate(zero.bit16_groups) for weight in group}
    send, end = zero.process_gradients, zero.overlapping_partition_gradients_reduce_epilogue
    left, there = list(weights), set()

    def comes(weight: nn.Parameter, group: int) -> None:
        there.add(weight)
        while left and left[-1] in there:
            send(left[-1], group_of[left.pop()])

    def ends() -> None:
        while left:
            weight = left.pop()
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            send(weight, group_of[weight])
        left.extend(weights)
        there.clear()
        end()

    zero.process_gradients, zero.overlapping_partition_gradients_reduce_epilogue = comes, ends
