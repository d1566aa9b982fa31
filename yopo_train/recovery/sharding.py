"""FSDP2: weights, gradients and optimizer state in shards, one a process, for models that do not fit beside them whole.

Only training is sharded. The stages that read (calibration, scores) have the whole model on each process, as with DDP.
"""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from yopo_train.models import family_of, unwrap
from yopo_train.ranks import is_first_rank


class FSDP2(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, with all processes in one group and no tensor parallelism.

    A checkpoint is the file that it is with DDP, of trained weights and their optimizer in one piece. Lightning's would
    gather the base's weights too each time, and gives what it has read of a checkpoint to nobody who compares it.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, **kwargs)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def pre_backward(self, closure_loss: Tensor) -> None:
        """Give weights that the batch left out a gradient of zero.

        Another process's batch may have images where this one's has none; both have to send gradients of the same size.
        """
        super().pre_backward(closure_loss)
        for weight in self.lightning_module.trainable().values():
            if not isinstance(weight, DTensor) and weight.grad is None:
                weight.grad = torch.zeros_like(weight)  # whole ones are those outside of the decoder layers

    # -- checkpoints --------------------------------------------------------------------------------------------------
    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Tensor]:
        """The trained weights in one piece, on the first process."""
        module = self.lightning_module
        whole = {name: whole_on_first_rank(weight) for name, weight in module.trainable().items()}
        return module.in_base_order(whole) if is_first_rank() else {}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """All of an optimizer's state in one piece, on the first process, under the numbers that it has with DDP."""
        optimizer = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        state = optimizer.state_dict()
        parts = {
            number: {name: whole_on_first_rank(value) for name, value in of_weight.items()}
            for number, of_weight in state["state"].items()
        }
        return state | {"state": parts} if is_first_rank() else {}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read the file, as strategies do that shard nothing."""
        return super(ModelParallelStrategy, self).load_checkpoint(checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        weights = self.lightning_module.trainable()
        with torch.no_grad():
            for name, value in self.lightning_module.in_plan_order(checkpoint["state_dict"]).items():
                weights[name].copy_(_part(value, weights[name]))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            parts = {
                number: {name: _part(value, weights[number]) for name, value in of_weight.items()}
                for number, of_weight in state["state"].items()
            }
            optimizer.load_state_dict(state | {"state": parts})


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shard a model in place over the mesh's dimension ``data_parallel``: each decoder layer by itself, then the rest.

    Does nothing on a model that is sharded already.
    """
    if is_sharded(model):
        return
    base = unwrap(model)
    layers = family_of(base).text_model(base).layers
    within = {weight for layer in layers for weight in layer.parameters()}
    if any(weight.requires_grad for weight in base.parameters() if weight not in within):
        # Else a process whose batch has no images would be done with the first layer's gradients last, and send them
        # when the others send those of what is outside of the layers.
        base.enable_input_require_grads()
    for part in (*layers, base):  # not peft's wrapper, which `generate` goes past
        fully_shard(part, mesh=mesh["data_parallel"])


def is_sharded(model: nn.Module) -> bool:
    """Whether a process has only a part of the model's weights."""
    return any(isinstance(weight, DTensor) for weight in model.parameters())


def whole_weights(model: nn.Module, trained_only: bool) -> dict[str, Tensor]:
    """The state dict of a sharded model in one piece, on the CPU; every process has to ask, the first alone gets it."""
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    found = {}
    for name, weight in model.state_dict().items():
        if trained_only and name not in trained:
            continue
        whole = whole_on_first_rank(weight)
        if is_first_rank():
            found[name] = whole
    return found


def whole_on_first_rank(value: Any) -> Any:
    """A tensor in one piece on the CPU, of whose shards each process has one; anything else as it is.

    Every process has to ask. Of tensors the first alone gets anything: they may be many times what one has room for.
    """
    value = value.full_tensor() if isinstance(value, DTensor) else value
    if not isinstance(value, Tensor):
        return value
    return value.cpu() if is_first_rank() else None


def _part(value: Any, like: Tensor) -> Any:
    """This process's shard of a whole tensor that belongs to a sharded weight and has its shape; else the value."""
    if not (isinstance(value, Tensor) and isinstance(like, DTensor) and value.shape == like.shape):
        return value
    # each process has the whole, so that nothing has to be sent
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
