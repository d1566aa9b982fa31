"""What of a base model's config a plan depends on: recorded in the plan, and compared before the plan is used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import UserError
from . import family_of

TOP = ("model_type", "vision_feature_layer", "vision_feature_select_strategy")
TEXT = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "hidden_act",
    "rms_norm_eps",
)
ROPE = ("rope_type", "rope_theta")
VISION = (
    "model_type",
    "hidden_size",
    "embed_dim",
    "num_hidden_layers",
    "depth",
    "image_size",
    "patch_size",
    "spatial_merge_size",
)


def architecture(config: Any) -> dict[str, Any]:
    """The fingerprint of a multimodal model's config: flat, JSON-able, without anything that is null.

    Only what the checkpoint decides: no type, no attention implementation, nothing that a library's version fills in.
    """
    text, vision = config.get_text_config(), getattr(config, "vision_config", None)
    parts = [
        ("", TOP, config),
        ("text.", TEXT, text),
        ("text.", ROPE, getattr(text, "rope_parameters", None)),
        ("vision.", VISION, vision),
    ]
    found = {f"{prefix}{name}": _value(part, name) for prefix, names, part in parts for name in names}
    tokens = {f"token.{modality}": token for modality, token in family_of(config).placeholders(config).items()}
    return {name: value for name, value in json.loads(json.dumps(found | tokens)).items() if value is not None}


def check_architecture(expected: Mapping[str, Any], config: Any, source: str, base: str) -> None:
    """Refuse another base model than the one that was recorded; nothing recorded is nothing refused.

    Parameters
    ----------
    expected
        What `architecture` gave when the plan was made.
    config
        Of the model at hand.
    source, base
        What the message calls the plan and the model.

    Raises
    ------
    UserError
        Names the first entry that differs.
    """
    if not isinstance(expected, Mapping):
        raise UserError(f"{source}: its architecture is {type(expected).__name__}, expected named entries")
    found = architecture(config)
    for name in sorted(expected.keys() & found.keys(), key=lambda name: (name != "model_type", name)):
        if expected[name] != found[name]:
            raise UserError(
                f"{source} was made for a model with {name} = {expected[name]!r}, but {base} has {found[name]!r} in "
                "its config.json: expected the same base model"
            )


def _value(part: Any, name: str) -> Any:
    return part.get(name) if isinstance(part, Mapping) else getattr(part, name, None)
