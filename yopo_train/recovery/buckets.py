"""In which order DDP adds up gradients: the same in a training that goes on as in one that nobody stopped."""

from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel


def settle_buckets(model: Any) -> None:
    """Have DDP arrange gradients as it does in all steps but the first.

    It puts them into buckets in the model's order, and after its first step once and for all in the order in which they
    came. Where a number stands in a bucket decides in which order more than two processes add up theirs (ring
    all-reduce), and so how the sum is rounded: the first step of a training that goes on would not be quite the step
    that the other one did. A first step in which all gradients are zero, and come in a fixed order, has it over with.

    Parameters
    ----------
    model
        What a strategy trains, before its first step; nothing is done to one that is not DDP's, or whose gradients DDP
        never rearranges, or that is on a GPU, whose sums nobody promises to be the same twice.
    """
    if not isinstance(model, DistributedDataParallel) or model.find_unused_parameters or model.static_graph:
        return
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if any(weight.device.type != "cpu" for weight in weights):
        return
    model.reducer.prepare_for_backward([])
    for weight in reversed(weights):
        torch.autograd.backward(weight, torch.zeros_like(weight))
    for weight in weights:
        weight.grad = None
