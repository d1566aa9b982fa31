"""How much heads and channels weigh: norms of weights, read layer by layer."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from yopo_train.calibration.collect import stack_layers
from yopo_train.models import family_of
from yopo_train.models.offload import resident
from yopo_train.models.quantization import plain_weight
from yopo_train.plan import ModelDims

ROWS = 64
"""Rows of a weight that are squared together; they should stay in the processor's cache."""


@dataclass
class WeightNorms:
    """Norms of what a head, a channel, and a channel's output weigh.

    Parameters
    ----------
    heads
        Frobenius norm of the head's rows of ``W_q`` and columns of ``W_o``, float32 ``(heads,)``.
    channels
        Norm of the channel's rows of ``W_gate`` and ``W_up`` and column of ``W_down``, float32 ``(channels,)``.
    columns
        Norm of the column of ``W_down`` alone, float32 ``(channels,)``.

    Of a whole model there is a dimension ``layers`` in front.
    """

    heads: Tensor
    channels: Tensor
    columns: Tensor

    @classmethod
    def of_layer(cls, layer: nn.Module, dims: ModelDims) -> "WeightNorms":
        """Norms of a decoder layer whose weights are in memory."""
        attention, mlp = layer.self_attn, layer.mlp
        query = _norm(plain_weight(attention.q_proj), dim=1).view(dims.heads, dims.head_dim)
        output = _norm(plain_weight(attention.o_proj), dim=0).view(dims.heads, dims.head_dim)
        gate, up, down = (
            _norm(plain_weight(layer), dim) for layer, dim in ((mlp.gate_proj, 1), (mlp.up_proj, 1), (mlp.down_proj, 0))
        )
        return cls(
            (query.square() + output.square()).sum(dim=1).sqrt(),
            (gate.square() + up.square() + down.square()).sqrt(),
            down,
        )

    @classmethod
    def of_model(cls, model: nn.Module) -> "WeightNorms":
        """Norms of all layers of a multimodal model."""
        family = family_of(model)
        dims, layers = family.dims(model.config), []
        for layer in family.text_model(model).layers:
            with resident(layer):
                layers.append(cls.of_layer(layer, dims))
        return cls.stack(layers)

    @classmethod
    def stack(cls, layers: list["WeightNorms"]) -> "WeightNorms":
        """Norms of the layers as those of a model."""
        return cls(*(stack_layers([getattr(norms, name) for norms in layers]) for name in cls.__dataclass_fields__))


def _norm(weight: Tensor, dim: int) -> Tensor:
    """Norms in float32, over few rows at a time: 25 times faster than all of 11008 x 4096 in bfloat16 on a CPU."""
    parts = [rows.float().square().sum(dim) for rows in weight.detach().split(ROWS)]
    return (torch.cat(parts) if dim else sum(parts)).sqrt()
