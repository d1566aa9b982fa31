"""Features of the vision tower that are added to visual hidden states behind the first layers (Qwen3-VL).

DeepStack, arXiv 2406.04334: behind layer i the i-th set of features is added where the image's tokens are. It needs the
visual tokens and nothing else, so it falls away with them: nothing is added behind the last layer that they reach,
because what that layer would put out for them is never read, nor behind later ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .layout import TokenLayout


class Deepstack:
    """The features of one forward pass, laid out for packed tokens.

    Parameters
    ----------
    layout : TokenLayout
        The tokens of this pass. They may all count as text: then the features' tokens are somewhere among them.
    mask : Tensor
        Bool ``(batch, tokens)``: the tokens that the features belong to.
    features : sequence of Tensor
        ``(true positions of the mask, hidden)`` for each of the first layers.
    """

    def __init__(self, layout: TokenLayout, mask: Tensor, features: Sequence[Tensor]):
        mask = mask.flatten().to(layout.index.device)
        self.rows = mask[layout.index].nonzero().squeeze(1)
        self.picked = (mask.cumsum(0) - 1)[layout.index[self.rows]]  # padding may be among the mask's tokens
        self.tokens, self.features = len(layout.index), features

    @classmethod
    def of(cls, layout: TokenLayout, mask: Tensor | None, features: Sequence[Tensor] | None) -> Deepstack | None:
        """None where a pass brings no features."""
        return None if features is None or mask is None else cls(layout, mask, features)

    def add(self, hidden: Tensor, layer: int) -> Tensor:
        """Packed hidden states behind a layer, with the layer's features where visual tokens still are."""
        if layer >= len(self.features) or len(hidden) < self.tokens:
            return hidden
        feature = self.features[layer].to(hidden)[self.picked]
        return hidden.index_add(0, self.rows, feature)
