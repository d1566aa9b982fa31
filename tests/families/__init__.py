"""Tiny random models of every supported family, one file each, and random batches for them.

A new family: a file here with ``toy(seed=0, **text) -> model`` (real class, float32, eval mode, `common.large` weights)
and ``toy_inputs(model, samples, padding="left", seed=0) -> dict`` (by `common.prompts`), and an entry in ``FAMILIES``.

A sample is a list such as ``[5, "image", 3]``: five text tokens, an image, three text tokens. Families with images of
any size also take ``("image", rows, columns)``, rows and columns of visual tokens, and those with videos
``("video", frames, rows, columns)``; the placeholder's start and end tokens, where a family has them, come on top.
"""

from . import (
    internvl,
    internvl2_internlm2,
    internvl2_phi3,
    llava,
    llava_next,
    llava_onevision,
    qwen2_5_vl,
    qwen2_vl,
    qwen3_vl,
)

FAMILIES = {
    "llava": llava,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "internvl": internvl,
    "internvl2_internlm2": internvl2_internlm2,
    "internvl2_phi3": internvl2_phi3,
}
"""By the name of the family's file. ``VIDEO`` says whether a family takes videos; ``TWO_IMAGES``, where there is such a
name, are two images of different sizes."""
