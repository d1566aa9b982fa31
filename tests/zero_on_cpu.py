"""DeepSpeed without a GPU: Lightning asks for CUDA, DeepSpeed itself does not."""

import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import DDPStrategy

from yopo_train.recovery.zero import DeepSpeed


class DeepSpeedOnCpu(DeepSpeed):
    """As in training, but for the devices that processes have."""

    runs_on = (CPUAccelerator,)

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu", 0)  # DeepSpeed asks for a number

    def setup_environment(self) -> None:
        DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()
