"""InternVL-2.0 8B and 26B as the converter makes them: InternLM2 has become a Llama; InternViT-6B's norms."""

from yopo_train.convert.files import ConfigSection
from yopo_train.convert.intern_vit import vision_config
from yopo_train.convert.internlm2 import INTERNLM2

from . import internvl
from .common import text_config
from .internvl import TWO_IMAGES as TWO_IMAGES
from .internvl import toy_inputs as toy_inputs
from .internvl import toy_processor as toy_processor

VIDEO = False
LLM = {"rms_norm_eps": 1e-5, "rope_theta": 1e6, "bias": False, "rope_scaling": {"type": "dynamic", "factor": 2.0}}
VISION = {"norm_type": "rms_norm", "qk_normalization": True, "qkv_bias": False}


def toy(seed=0, max_position_embeddings=256, **text):
    llm = {**text_config(**text), **LLM, "max_position_embeddings": max_position_embeddings}
    return internvl.toy_of(
        INTERNLM2.text_config(ConfigSection("", llm)),
        vision_config(ConfigSection("", {**internvl.VISION, **VISION, "image_size": internvl.TILE, "patch_size": 4})),
        seed,
    )
