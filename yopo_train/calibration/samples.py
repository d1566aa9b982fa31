"""Which tokens of a batch calibration looks at: where each sample's text, image and sampled visual queries stand."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from yopo_train.errors import UserError
from yopo_train.models import Grid, family_of
from yopo_train.models.prompt import real_tokens, visual_mask

VISUAL_QUERIES = 32
"""Visual queries of a sample whose attention is measured; all of them would cost tokens squared."""

GOLDEN = (5**0.5 - 1) / 2


@dataclass(eq=False)
class Sample:
    """Where things are in one sequence of the batch; padding is left out everywhere.

    Parameters
    ----------
    row
        Row of the batch.
    keys
        Positions of all tokens, ``(tokens,)``.
    is_visual
        Which of ``keys`` are visual tokens, bool ``(tokens,)``.
    visual
        Positions of the visual tokens, ``(visual,)``.
    text_queries
        Positions of the text tokens behind the first visual token, ``(queries,)``.
    visual_queries
        Positions of some visual tokens, ``(sampled,)``, see `spread`.
    distances
        Grid distance ``max(|rows|, |columns|)`` from each of them to each of ``keys``, ``(sampled, tokens)``; -1 where
        the key is no visual token of the same image and frame.
    longest
        The largest distance that the sample's grids have: longer side - 1.
    """

    row: int
    keys: Tensor
    is_visual: Tensor
    visual: Tensor
    text_queries: Tensor
    visual_queries: Tensor
    distances: Tensor
    longest: int

    def to(self, device: torch.device) -> "Sample":
        """The same on the device of the layer that looks at it: a model may be spread over several."""
        if self.keys.device == device:
            return self
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return Sample(**{name: v.to(device) if isinstance(v, Tensor) else v for name, v in values.items()})


def find_samples(model: nn.Module, inputs: Mapping[str, Any], names: list[str]) -> list[Sample]:
    """The samples of a batch that hold visual tokens.

    Parameters
    ----------
    inputs
        The model's inputs; ``input_ids`` and ``attention_mask`` are ``(batch, tokens)``.
    names
        What errors call the samples.

    Raises
    ------
    UserError
        An image without any text behind it, which leaves nothing to measure.
    """
    valid, visual = real_tokens(inputs), visual_mask(model, inputs)
    if not visual.any():
        return []
    grids = family_of(model).grids(model.config, visual, inputs)
    return [
        _sample(row, valid[row], visual[row], grids[row], names[row])
        for row in visual.any(dim=1).nonzero().flatten().tolist()
    ]


def spread(size: int, count: int) -> Tensor:
    """At most ``count`` of the numbers ``0 .. size - 1``, evenly spread and always the same; ascending.

    One of each of ``count`` equal stretches, at a place in it that moves on by the golden ratio: a fixed step would
    fall on the same few columns of the grid again and again.
    """
    if size <= count:
        return torch.arange(size)
    stretch = torch.arange(count, dtype=torch.float64)
    return ((stretch + (stretch * GOLDEN).frac()) * size / count).long().unique()


def grid_places(grids: list[Grid]) -> Tensor:
    """Frame (counted through all images), row and column of each visual token, ``(visual, 3)``."""
    places, before = [], 0
    for frames, rows, columns in grids:
        cell = torch.cartesian_prod(torch.arange(before, before + frames), torch.arange(rows), torch.arange(columns))
        places.append(cell)
        before += frames
    return torch.cat(places)


def _sample(row: int, valid: Tensor, visual: Tensor, grids: list[Grid], name: str) -> Sample:
    behind = valid & ~visual & (visual.cumsum(0) > 0)
    if not behind.any():
        raise UserError(f"calibration sample {name} has no text behind its image, expected a question")
    keys, positions = valid.nonzero().flatten(), visual.nonzero().flatten()
    is_visual, places = visual[keys], grid_places(grids).to(keys.device)
    asked = spread(len(positions), VISUAL_QUERIES).to(keys.device)
    apart = places[asked, None] - places
    distances = keys.new_full((len(asked), len(keys)), -1)
    distances[:, is_visual] = torch.where(apart[..., 0] == 0, apart[..., 1:].abs().amax(dim=-1), -1)
    longest = max(max(grid[1:]) for grid in grids) - 1
    return Sample(row, keys, is_visual, positions, behind.nonzero().flatten(), positions[asked], distances, longest)
