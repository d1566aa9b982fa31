"""Random calibration scores."""

import torch

from yopo_train.calibration import Scores
from yopo_train.plan import ModelDims


def random_scores(dims: ModelDims, samples: int = 5, seed: int = 0) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    heads, channels = (dims.layers, dims.heads), (dims.layers, dims.intermediate)
    tensors = [torch.rand(shape, generator=generator) for shape in ((samples, *heads), channels, heads, channels)]
    return Scores(dims, *tensors, base_model="org/model", revision="abc", data_fingerprint="f00")
