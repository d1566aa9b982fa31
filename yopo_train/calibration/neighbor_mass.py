"""How near on the grid visual tokens look: the neighbor mass."""

import torch
from torch import Tensor
from torchmetrics import Metric

DISTANCES = 1024
"""Distances counted apart; a key even farther away counts as one at the last distance."""


class NeighborMass(Metric):
    """mass[layer, distance]: share of visual-to-visual attention at each Chebyshev distance on the grid.

    YOPO (arXiv 2410.06169), figure 2. For sampled visual queries, their (causal) attention weights on the visual keys
    of their own image and frame, summed over queries, heads and samples, by the distance ``max(|rows|, |columns|)``
    between query and key; divided by their sum over all distances. So ``mass[layer, : r + 1].sum()`` is what a neighbor
    radius of r keeps of that attention. What the queries give to text and to other images does not count.

    Parameters
    ----------
    layers
        Of the language model.
    """

    full_state_update = False
    higher_is_better = None

    def __init__(self, layers: int, **kwargs) -> None:
        super().__init__(**kwargs)
        # one width for all models and ranks: no rank knows beforehand how large the others' images are
        self.add_state("total", default=torch.zeros(layers, DISTANCES, dtype=torch.float32), dist_reduce_fx="sum")
        self.add_state("longest", default=torch.tensor(0), dist_reduce_fx="max")

    def update(self, near: Tensor, longest: int) -> None:
        """Add samples.

        Parameters
        ----------
        near
            Attention by distance, summed over sampled visual queries and heads, ``(layers, DISTANCES)``.
        longest
            The largest distance that the samples' grids have.
        """
        self.total += near.float().to(self.device)
        self.longest = self.longest.clamp(min=min(longest, DISTANCES - 1))

    def compute(self) -> Tensor:
        """Shares that add up to 1 in each layer, float32 ``(layers, longest + 1)``."""
        total = self.total[:, : int(self.longest) + 1]
        return total / total.sum(dim=1, keepdim=True).clamp(min=torch.finfo(total.dtype).tiny)
