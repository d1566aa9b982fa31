"""InternViT, InternVL's vision tower: 300M (layer norms, biases) and 6B (RMS norms, normalised queries and keys).

``modeling_intern_vit.py``: each layer is ``h += ls1 * attn(norm1(h)); h += ls2 * mlp(norm2(h))``, with q, k and v in
one matrix, in this order.
"""

from __future__ import annotations

from transformers import InternVLVisionConfig

from ..errors import UserError
from .files import ConfigSection
from .rules import Rule

QK_NORM_EPS = 1e-6
"""What ``InternVLVisionModel`` normalises queries and keys with, whatever its configuration says."""

SAME_BUT_NAME = {
    "embeddings.class_embedding": "embeddings.cls_token",
    "embeddings.position_embedding": "embeddings.position_embeddings",
}
LAYER_NAMES = {
    "attn.q_norm": "attention.q_norm",
    "attn.k_norm": "attention.k_norm",
    "attn.proj": "attention.projection_layer",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
}
LAYER = r"vision_model\.encoder\.layers\.(\d+)\."
NEW_LAYER = r"vision_tower.encoder.layer.\1."


def vision_config(vision: ConfigSection) -> InternVLVisionConfig:
    """From the section ``vision_config``; what it leaves out has the defaults of ``configuration_intern_vit.py``."""
    qk_norm, eps = bool(vision.get("qk_normalization", True)), vision.number("layer_norm_eps", 1e-6)
    if qk_norm and eps != QK_NORM_EPS:
        raise UserError(f"{vision.where}layer_norm_eps is {eps}, expected {QK_NORM_EPS} where qk_normalization is set")
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "image_size", "patch_size")
    return vision.build(
        InternVLVisionConfig,
        **{name: vision.count(name) for name in sizes},
        **vision.pick("num_channels", "initializer_range", "attention_dropout"),
        hidden_act=vision.get("hidden_act", "gelu"),
        norm_type=vision.expect("norm_type", "rms_norm", "layer_norm", default="rms_norm"),
        layer_norm_eps=eps,
        use_qk_norm=qk_norm,
        attention_bias=bool(vision.get("qkv_bias", False)),
    )


def vision_rules() -> list[Rule]:
    """For tensors under ``vision_model.``."""
    projections = tuple(NEW_LAYER + rf"attention.{name}_proj.\2" for name in "qkv")
    return [
        Rule(LAYER + r"attn\.qkv\.(weight|bias)", projections, lambda rows: rows.chunk(3, dim=0)),
        *(
            Rule(LAYER + old.replace(".", r"\.") + r"\.(weight|bias)", (NEW_LAYER + new + r".\2",))
            for old, new in LAYER_NAMES.items()
        ),
        Rule(LAYER + r"ls([12])", (NEW_LAYER + r"lambda_\2",)),
        *(
            Rule(r"vision_model\." + old.replace(".", r"\."), ("vision_tower." + new,))
            for old, new in SAME_BUT_NAME.items()
        ),
        Rule(
            r"vision_model\.embeddings\.patch_embedding\.(weight|bias)",
            (r"vision_tower.embeddings.patch_embeddings.projection.\1",),
        ),
    ]
