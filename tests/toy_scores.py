"""Random calibration scores."""

import torch

from yopo_train.calibration import Scores
from yopo_train.plan import ModelDims


def random_scores(dims: ModelDims, samples: int = 5, seed: int = 0, distances: int = 4) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    heads, channels = (dims.layers, dims.heads), (dims.layers, dims.intermediate)
    rho, channel_scores, head_norms, channel_norms = (
        torch.rand(shape, generator=generator) for shape in ((samples, *heads), channels, heads, channels)
    )
    near = torch.rand(dims.layers, distances, generator=generator).softmax(dim=1)
    about = {"base_model": "org/model", "revision": "abc", "data_fingerprint": "f00", "seed": 3, "batch_size": 2}
    return Scores(dims, rho, channel_scores, near, head_norms, channel_norms, **about)
