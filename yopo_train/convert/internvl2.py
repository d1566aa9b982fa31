"""InternVL-2.0 (and 2.5) checkpoints, ``InternVLChatModel``, to ``InternVLForConditionalGeneration``.

The original needs remote code that today's ``transformers`` cannot run; nothing of it is run here. Its
``modeling_internvl_chat.py`` takes the hidden state ``select_layer`` of the vision tower, drops the class token, folds
2 x 2 patches into channels (pixel shuffle, "v2") and projects them by ``mlp1``; ``transformers`` does the same under
other names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, InternVLConfig, InternVLForConditionalGeneration, PreTrainedTokenizerBase

from ..errors import UserError
from ..run_folder import write_text
from .files import ConfigSection, check_destination, read_config
from .intern_vit import vision_config, vision_rules
from .internlm2 import INTERNLM2
from .language_models import LLAMA, QWEN2, LanguageModel
from .output import write_model
from .phi3 import PHI3
from .rules import Rule, check_complete, plan_jobs
from .shards import find_shards
from .templates import INTERNVL_TEMPLATES, Turns
from .tokenizer import load_tokenizer

LANGUAGE_MODELS: dict[str, LanguageModel] = {
    "InternLM2ForCausalLM": INTERNLM2,
    "Phi3ForCausalLM": PHI3,
    "Qwen2ForCausalLM": QWEN2,
    "LlamaForCausalLM": LLAMA,
}
IMAGE_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
}
VIDEO_TOKEN = {"video_token": "<video>"}
"""What ``InternVLProcessor`` replaces by a video's frames: never a token of the model, but it asks for the name."""

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
BICUBIC = 3
TILES = {"min": 1, "max": 6}
"""Tiles of an image where ``config.json`` does not say it (``configuration_internvl_chat.py``)."""


def convert_internvl2(source: Path, folder: Path) -> None:
    """Convert a checkpoint folder.

    Parameters
    ----------
    source : Path
        The original folder: ``config.json``, safetensors shards and tokenizer files.
    folder : Path
        New or empty; what ``AutoModelForImageTextToText`` and ``AutoProcessor`` load.

    Raises
    ------
    UserError
        Bad source or destination; nothing is left behind then.
    """
    check_destination(folder, source)
    original = read_config(source)
    original.architecture("InternVLChatModel")
    llm = original.section("llm_config")
    language_model = LANGUAGE_MODELS[llm.architecture(*LANGUAGE_MODELS)]
    turns = INTERNVL_TEMPLATES[original.expect("template", *INTERNVL_TEMPLATES)]
    tokenizer = load_tokenizer(source, IMAGE_TOKENS, VIDEO_TOKEN)
    config = _config(original, language_model.text_config(llm), tokenizer, source)
    image_processor = _image_processor(original, config)
    made: dict[str, Any] = {}
    rules = [*vision_rules(), *_projector_rules(), *language_model.rules(llm)]
    jobs = plan_jobs(find_shards(source), rules, made)
    check_complete(made, InternVLForConditionalGeneration, config, original, source)

    def write_rest(target: Path) -> None:
        config.save_pretrained(target)
        _generation_config(turns, tokenizer, source).save_pretrained(target)
        _save_processor(target, tokenizer, image_processor, _image_length(config), turns)

    write_model(folder, jobs, write_rest)


# -- configuration ----------------------------------------------------------------------------------------------------
def _config(
    original: ConfigSection, text_config: Any, tokenizer: PreTrainedTokenizerBase, source: Path
) -> InternVLConfig:
    original.expect("ps_version", "v2")  # "v1" turns images by 90 degrees; transformers has no such switch
    original.expect("use_backbone_lora", 0, default=0)
    original.expect("use_llm_lora", 0, default=0)
    vision = vision_config(original.section("vision_config"))
    forced = original.get("force_image_size", vision.image_size[0])
    if [forced, forced] != list(vision.image_size):
        raise UserError(
            f"{original.where}force_image_size is {forced}, but vision_config.image_size is {vision.image_size[0]}: "
            "expected the same"
        )
    return original.build(
        InternVLConfig,
        text_config=text_config,
        vision_config=vision,
        image_token_id=_image_token(tokenizer, text_config.vocab_size, source),
        downsample_ratio=original.number("downsample_ratio"),
        vision_feature_layer=original.vision_layer("select_layer", vision.num_hidden_layers),
        vision_feature_select_strategy="default",
        tie_word_embeddings=text_config.tie_word_embeddings,
        architectures=["InternVLForConditionalGeneration"],
        dtype=original.dtype(),
    )


def _image_token(tokenizer: PreTrainedTokenizerBase, vocabulary: int, source: Path) -> int:
    """The id of ``<IMG_CONTEXT>``, when all three image tokens have embeddings."""
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in IMAGE_TOKENS.values()}
    for token, number in ids.items():
        if number >= vocabulary:
            raise UserError(
                f"{source}: the tokenizer's {token} is token {number}, but the model has {vocabulary} tokens"
            )
    return ids[IMAGE_TOKENS["context_image_token"]]


def _generation_config(turns: Turns, tokenizer: PreTrainedTokenizerBase, source: Path) -> GenerationConfig:
    """Generation ends with the turn, as the original's ``chat`` does, or with the text."""
    stop = tokenizer.convert_tokens_to_ids(turns.stop_token)
    if stop is None or stop == tokenizer.unk_token_id:
        raise UserError(f"{source}: the tokenizer has no token {turns.stop_token}, which the chat template ends with")
    ends = list(dict.fromkeys([stop, tokenizer.eos_token_id]))
    return GenerationConfig(bos_token_id=tokenizer.bos_token_id, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)


def _projector_rules() -> list[Rule]:
    names = {"0": "layer_norm", "1": "linear_1", "3": "linear_2"}
    return [Rule(rf"mlp1\.{i}\.(weight|bias)", (rf"multi_modal_projector.{name}.\1",)) for i, name in names.items()]


# -- processor --------------------------------------------------------------------------------------------------------
def _image_length(config: InternVLConfig) -> int:
    """Visual tokens of one tile."""
    vision = config.vision_config
    return int((vision.image_size[0] // vision.patch_size[0]) ** 2 * config.downsample_ratio**2)


def _image_processor(original: ConfigSection, config: InternVLConfig) -> dict[str, Any]:
    """``preprocessor_config.json``: tiles of the image, and a thumbnail where there are several."""
    dynamic = bool(original.get("dynamic_image_size", True))
    if dynamic and not original.get("use_thumbnail", False):
        raise UserError(f"{original.where}use_thumbnail is false, but the processor of transformers always makes one")
    size = config.vision_config.image_size
    tiles = [original.count(f"{end}_dynamic_patch", default) if dynamic else 1 for end, default in TILES.items()]
    if tiles[0] > tiles[1]:
        raise UserError(f"{original.where}min_dynamic_patch is {tiles[0]}, more than max_dynamic_patch ({tiles[1]})")
    return {
        "image_processor_type": "GotOcr2ImageProcessor",
        "processor_class": "InternVLProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "size": {"height": size[0], "width": size[1]},
        "resample": BICUBIC,
        "rescale_factor": 1 / 255,
        "image_mean": IMAGENET_MEAN,
        "image_std": IMAGENET_STD,
        "crop_to_patches": True,
        "min_patches": tiles[0],
        "max_patches": tiles[1],
    }


def _save_processor(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    image_processor: dict[str, Any],
    image_length: int,
    turns: Turns,
) -> None:
    """The processor's files, written out: its class cannot be made where there is no torchvision."""
    tokenizer.chat_template = None  # of the language model alone, if any
    tokenizer.save_pretrained(folder)
    unused = ("crop_to_patches", "min_patches", "max_patches", "image_processor_type")
    video = {name: value for name, value in image_processor.items() if name not in unused}
    files = {
        "preprocessor_config.json": image_processor,
        "video_preprocessor_config.json": {**video, "video_processor_type": "InternVLVideoProcessor"},
        "processor_config.json": {"processor_class": "InternVLProcessor", "image_seq_length": image_length},
    }
    for name, content in files.items():
        write_text(folder / name, json.dumps(content, indent=2) + "\n")
    write_text(folder / "chat_template.jinja", turns.jinja(IMAGE_TOKENS["context_image_token"]))
