"""What the matrix tests share: mechanisms, their plans, and batches by what they try out."""

import torch
from toy import random_plan, toy_dims

from yopo_train.models.prompt import real_tokens, visual_mask

from . import FAMILIES

DENSE = {"radius": None, "heads": 1.1, "channels": 1.1}
MECHANISMS = {
    "heads": {"heads": 0.5},
    "channels": {"channels": 0.5},
    "radius": {"radius": 1},
    "depth": {"depth": 2},
    "all": {"depth": 3, "radius": 1, "heads": 0.5, "channels": 0.5},
}
VIDEOS = [name for name, family in FAMILIES.items() if family.VIDEO]
VIDEO = [[3, ("video", 2, 2, 3), 2], [2, "image", 1, ("video", 3, 2, 2), ("image", 2, 3), 4]]
"""Unless a family has ``VIDEO_SAMPLES`` of its own."""


def plan_of(model, mechanism):
    dims = toy_dims(model)
    return random_plan(dims, **{"depth": dims.layers, **DENSE, **MECHANISMS[mechanism]}, seed=1)


def inputs_of(name, model, shape):
    """Batches by what they try out."""
    one, other = two_images(name)
    padded = [[3, "image", 4], [2, one, 1, other, 1, "image", 2], [6]]
    samples = {
        "forward": [[3, "image", 4]],
        "two images": [[3, one, 2, other, 4]],
        "padded left": padded,
        "padded right": padded,
    }[shape]
    return FAMILIES[name].toy_inputs(model, samples, "right" if shape.endswith("right") else "left", seed=3)


def two_images(name):
    """Two images, of different sizes where the family has such."""
    return getattr(FAMILIES[name], "TWO_IMAGES", ("image", "image"))


def videos_of(name, model):
    return FAMILIES[name].toy_inputs(model, getattr(FAMILIES[name], "VIDEO_SAMPLES", VIDEO), seed=3)


def text_logits(model, batch, **kwargs):
    text = real_tokens(batch) & ~visual_mask(model, batch)
    with torch.no_grad():
        return model(**batch, **kwargs).logits[text]


def assert_close(found, expected, rtol=0.0):
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=rtol)
