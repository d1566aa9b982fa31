"""The vision tower of an original LLaVA checkpoint: inside its shards, or a CLIP checkpoint of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from transformers import CLIPVisionConfig

from ..errors import UserError
from .files import ConfigSection, read_config, read_json
from .rules import Rule
from .shards import Shard, find_shards

LARGE_336 = "openai/clip-vit-large-patch14-336"
LARGE_336_CONFIG = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
"""The tower of LLaVA-1.5, for checkpoints whose shards hold it: their ``config.json`` has nothing but its name."""

FILES = ("config.json", "preprocessor_config.json")
INSIDE = "model.vision_tower.vision_tower."
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
BICUBIC = 3


@dataclass
class Tower:
    """A vision tower.

    Parameters
    ----------
    config : CLIPVisionConfig
        Its sizes.
    shards : list of Shard
        Its weights, where they are not in the checkpoint's own shards.
    colors : dict
        ``image_mean`` and ``image_std``, three numbers each, as far as its ``preprocessor_config.json`` has them.
    """

    config: CLIPVisionConfig
    shards: list[Shard]
    colors: dict[str, list[float]]


def find_tower(name: str, wanted: str | None, inside: bool) -> Tower:
    """The tower's configuration, and its weights unless they are ``inside`` the checkpoint.

    Parameters
    ----------
    name : str
        What the checkpoint calls its tower.
    wanted : str, optional
        ``--vision_tower``: a local folder or a Hub id.

    Raises
    ------
    UserError
        It cannot be found or fetched, or is no CLIP.
    """
    if inside and wanted is None and name.rstrip("/").endswith(LARGE_336.split("/")[1]):
        return Tower(CLIPVisionConfig(**LARGE_336_CONFIG), [], {})
    folder = _folder(wanted or name, f"--vision_tower is {wanted}" if wanted else f"mm_vision_tower is {name}")
    return Tower(_config(read_config(folder)), [] if inside else find_shards(folder), _colors(folder))


def _folder(name: str, what: str) -> Path:
    if Path(name).is_dir():
        return Path(name)
    if name.startswith((".", "/", "~")):
        raise UserError(f"{what}, but there is no such folder; give the tower's with --vision_tower")
    try:
        return Path(snapshot_download(name, allow_patterns=[*FILES, "model*.safetensors*", "pytorch_model*"]))
    except (OSError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError) as error:
        raise UserError(
            f"{what}, which cannot be fetched from the Hub ({type(error).__name__}); give a local folder with "
            "--vision_tower"
        ) from None


def _colors(folder: Path) -> dict[str, list[float]]:
    path = folder / "preprocessor_config.json"
    content = read_json(path) if path.is_file() else {}
    found = {name: content[name] for name in ("image_mean", "image_std") if name in content}
    for name, values in found.items():
        if not isinstance(values, list) or len(values) != 3 or not all(type(v) in (int, float) for v in values):
            raise UserError(f"{path}: {name} is {values!r}, expected three numbers")
    return found


def _config(config: ConfigSection) -> CLIPVisionConfig:
    config.expect("model_type", "clip", "clip_vision_model")
    vision = config.section("vision_config") if "vision_config" in config else config
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
    others = vision.pick("projection_dim", "hidden_act", "layer_norm_eps", "num_channels", "initializer_range")
    return vision.build(CLIPVisionConfig, **{name: vision.count(name) for name in sizes}, **others)


def tower_rules(prefix: str = "") -> list[Rule]:
    """For a CLIP checkpoint, or for the tower under ``prefix`` in LLaVA's shards."""
    start = prefix.replace(".", r"\.") + r"(?:vision_model\.)?"
    others = [] if prefix else [Rule(r"(text_model|text_projection|visual_projection|logit_scale)\b.*", ())]
    return [
        *others,
        Rule(start + r"embeddings\.position_ids", ()),
        Rule(start + r"((?:embeddings|pre_layrnorm|post_layernorm|encoder)\..+)", (r"vision_tower.vision_model.\1",)),
    ]


def preprocessor_config(tower: Tower, pad: bool) -> dict[str, Any]:
    """``preprocessor_config.json``: square by padding with the mean colour, or by cutting off the sides.

    Parameters
    ----------
    pad : bool
        LLaVA's ``image_aspect_ratio`` is "pad".
    """
    size = tower.config.image_size
    kind = {"image_processor_type": "LlavaImageProcessor", "do_pad": True} if pad else {}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "LlavaProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "do_center_crop": True,
        "do_rescale": True,
        "do_normalize": True,
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
        "resample": BICUBIC,
        "rescale_factor": 1 / 255,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
        **tower.colors,
        **kind,
    }
