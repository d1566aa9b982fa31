"""InternVL-2.0 4B as the converter makes it: Phi-3 has become a Llama with long RoPE; InternViT-300M."""

from yopo_train.convert.files import ConfigSection
from yopo_train.convert.intern_vit import vision_config
from yopo_train.convert.phi3 import PHI3

from . import internvl
from .common import text_config
from .internvl import TWO_IMAGES as TWO_IMAGES
from .internvl import toy_inputs as toy_inputs
from .internvl import toy_processor as toy_processor

VIDEO = False
FACTORS = [1.0, 1.2, 1.4, 1.6, 1.8, 2.0]  # half of a head's 12 dimensions
LLM = {
    "rms_norm_eps": 1e-5,
    "sliding_window": 512,
    "max_position_embeddings": 256,
    "original_max_position_embeddings": 8,  # shorter than any image: the long factors count
    "rope_scaling": {"type": "su", "short_factor": FACTORS, "long_factor": [2 * factor for factor in FACTORS]},
}
VISION = {"norm_type": "layer_norm", "qk_normalization": False, "qkv_bias": True}


def toy(seed=0, **text):
    return internvl.toy_of(
        PHI3.text_config(ConfigSection("", {**text_config(**text), **LLM})),
        vision_config(ConfigSection("", {**internvl.VISION, **VISION, "image_size": internvl.TILE, "patch_size": 4})),
        seed,
    )
