"""FSDP2: weights, gradients and optimizer state in shards, one a process, for models that do not fit beside them whole.

Only training is sharded. The stages that read (calibration, scores) have the whole model on each process, as with DDP.
"""

from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from yopo_train.models import family_of, unwrap


class FSDP2(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, with all processes in one group and no tensor parallelism.

    A checkpoint is one file, as with DDP: of trained weights alone it is small.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, **kwargs)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shard a model in place over the mesh's dimension ``data_parallel``: each decoder layer by itself, then the rest.

    Does nothing on a model that is sharded already.
    """
    if is_sharded(model):
        return
    base = unwrap(model)
    for layer in family_of(base).text_model(base).layers:
        fully_shard(layer, mesh=mesh["data_parallel"])
    fully_shard(base, mesh=mesh["data_parallel"])  # not peft's wrapper, which `generate` goes past


def is_sharded(model: nn.Module) -> bool:
    """Whether a process has only a part of the model's weights."""
    return any(isinstance(weight, DTensor) for weight in model.parameters())


def whole_weights(model: nn.Module, trained_only: bool) -> dict[str, Tensor]:
    """The state dict of a sharded model in one piece, on the CPU; every process has to ask, the first alone gets it."""
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    first, found = torch.distributed.get_rank() == 0, {}
    for name, weight in model.state_dict().items():
        if trained_only and name not in trained:
            continue
        whole = weight.full_tensor() if isinstance(weight, DTensor) else weight
        if first:
            found[name] = whole.cpu()
    return found
