"""Which FFN channels visual tokens use: the channel score."""

import torch
from torch import Tensor
from torchmetrics import Metric


class ChannelScore(Metric):
    """score[layer, channel]: what the channel adds to the residual stream of the visual tokens, as an upper bound.

    The sum over visual tokens of ``|hidden_c|`` times the norm of ``W_down``'s column c, where hidden is the input of
    ``down_proj``.

    Parameters
    ----------
    layers, channels
        Of the language model.
    """

    full_state_update = False
    higher_is_better = None

    def __init__(self, layers: int, channels: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.add_state("total", default=torch.zeros(layers, channels, dtype=torch.float32), dist_reduce_fx="sum")

    def update(self, activation: Tensor, column_norms: Tensor) -> None:
        """Add visual tokens.

        Parameters
        ----------
        activation
            Sum of ``|hidden|`` over visual tokens, ``(layers, channels)``.
        column_norms
            Norms of the columns of ``W_down``, ``(layers, channels)``.
        """
        self.total += (activation.float() * column_norms.float()).to(self.device)

    def compute(self) -> Tensor:
        """Scores, float32 ``(layers, channels)``."""
        return self.total
