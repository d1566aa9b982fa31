"""Which attention heads look at the image: the head ratio rho."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class HeadRatio(Metric):
    """rho[layer, head] of each sample: attention that text gives to the image over attention it gives to the rest.

    YOPO (arXiv 2410.06169), figure 5: for the text queries behind the (first) image, the sum of their attention weights
    on visual keys, over the sum on all other keys. Samples are kept apart, so that a planner can average or vote; their
    order means nothing.

    Parameters
    ----------
    layers, heads
        Of the language model.
    """

    full_state_update = False
    higher_is_better = None

    def __init__(self, layers: int, heads: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.layers, self.heads = layers, heads
        # flat: a rank without any sample is synchronised as a tensor of shape (0,)
        self.add_state("ratios", default=[], dist_reduce_fx="cat")

    def update(self, visual: Tensor, other: Tensor) -> None:
        """Add samples.

        Parameters
        ----------
        visual, other
            Attention mass on visual keys and on all other keys, summed over the text queries behind the image;
            ``(samples, layers, heads)``.
        """
        ratios = visual.float() / other.float()
        self.ratios.append(ratios.flatten().to(self.device))

    def compute(self) -> Tensor:
        """rho, float32 ``(samples, layers, heads)``."""
        ratios = dim_zero_cat(self.ratios) if len(self.ratios) else torch.zeros(0, device=self.device)
        return ratios.view(-1, self.layers, self.heads)
