"""Original LLaVA-1.5 checkpoints, ``LlavaLlamaForCausalLM``, to the ``llava-hf`` layout.

The checkpoints that YOPO's authors released have this layout, too; see `official_plan`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from torch import Tensor
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerBase,
)

from ..errors import UserError
from ..models import family_of
from ..plan import PruningPlan
from ..run_folder import write_text
from .clip_tower import INSIDE, Tower, find_tower, preprocessor_config, tower_rules
from .files import ConfigSection, check_destination, read_config
from .language_models import common_fields
from .official_plan import for_compact, is_pruned, official_plan
from .output import write_model
from .rules import Rule, check_complete, plan_jobs
from .shards import find_shards
from .templates import VICUNA
from .tokenizer import load_tokenizer

IMAGE_TOKEN, PAD_TOKEN = "<image>", "<pad>"
VOCABULARY_MULTIPLE = 64
OFFICIAL_PLAN, COMPACT_PLAN = "plan.safetensors", "plan-compact.safetensors"
PLAN_NOTE = (
    f"{OFFICIAL_PLAN} has the authors' semantics, which only the reference backend computes; {COMPACT_PLAN} is for the "
    "compact backend, which renormalises the softmax over what is left and shows a visual token no later neighbors"
)
NO_MASK_NOTE = (
    "config.json is that of a pruned YOPO checkpoint: no plan.safetensors is written without --head_mask, and without "
    "a plan nothing is pruned"
)


def convert_llava(
    source: Path, folder: Path, vision_tower: str | None = None, head_mask: Path | None = None
) -> list[str]:
    """Convert a checkpoint folder.

    Parameters
    ----------
    source : Path
        The original folder: ``config.json``, shards (safetensors, or ``.bin`` read as tensors only), tokenizer files.
    folder : Path
        New or empty; what ``AutoModelForImageTextToText`` and ``AutoProcessor`` load.
    vision_tower : str, optional
        Folder or Hub id of the CLIP that the shards lack; ``mm_vision_tower`` unless given.
    head_mask : Path, optional
        Head mask of a pruned checkpoint: ``plan.safetensors`` is written, too, with the authors' semantics, and
        ``plan-compact.safetensors`` for the compact backend.

    Returns
    -------
    list of str
        What the user should know.

    Raises
    ------
    UserError
        Bad source or destination; nothing is left behind then.
    """
    check_destination(folder, source)
    original = read_config(source)
    _check_kind(original)
    shards = find_shards(source)
    inside = any(name.startswith(INSIDE) for shard in shards for name in shard.header())
    tower = find_tower(original.text("mm_vision_tower", ""), vision_tower, inside)
    tokenizer = _tokenizer(source)
    config = _config(original, tower, tokenizer)
    made: dict[str, Any] = {}
    rows = config.text_config.vocab_size - original.get("vocab_size")
    jobs = plan_jobs(shards, [*_rules(rows), *tower_rules(INSIDE)], made)
    jobs += plan_jobs(tower.shards, tower_rules(), made)
    check_complete(made, LlavaForConditionalGeneration, config, original, source)
    plan = _plan(original, config, head_mask)

    def write_rest(target: Path) -> None:
        config.save_pretrained(target)
        _generation_config(tokenizer).save_pretrained(target)
        _save_processor(target, tokenizer, config, preprocessor_config(tower, _pads(original)))
        if plan is not None:
            plan.save(target / OFFICIAL_PLAN)
            for_compact(plan).save(target / COMPACT_PLAN)

    write_model(folder, jobs, write_rest)
    return [plan.describe(), PLAN_NOTE] if plan is not None else [NO_MASK_NOTE] if is_pruned(original) else []


def _check_kind(original: ConfigSection) -> None:
    """Refuse what has other modules or another prompt than LLaVA-1.5."""
    original.architecture("LlavaLlamaForCausalLM")
    original.expect("mm_projector_type", "mlp2x_gelu")
    original.expect("mm_use_im_start_end", False, default=False)
    original.expect("mm_patch_merge_type", "flat", default="flat")
    original.expect("tie_word_embeddings", False, default=False)
    original.expect("image_aspect_ratio", "pad", "square", default="square")


def _pads(original: ConfigSection) -> bool:
    return original.get("image_aspect_ratio", "square") == "pad"


# -- tokens -----------------------------------------------------------------------------------------------------------
def _tokenizer(source: Path) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer with ``<image>`` and ``<pad>``, in this order, as ``llava-hf`` has them."""
    tokenizer = load_tokenizer(source)
    backend = tokenizer.backend_tokenizer
    if isinstance(backend.pre_tokenizer, pre_tokenizers.Metaspace) and backend.normalizer is None:
        # The original reads the text behind an image as a text of its own (mm_utils.py: tokenizer_image_token), with
        # Llama's space in front; a tokenizer that is not "legacy" puts it in front of the whole prompt only.
        backend.normalizer = normalizers.Replace(Regex(r"\A\n"), " \n")
    tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)], special_tokens=True)
    tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    tokenizer.chat_template = None
    return tokenizer


def extend_rows(weight: Tensor, rows: int) -> Tensor:
    """An embedding or LM head with ``rows`` more tokens, each the mean of all others.

    (``llava-hf`` drew them from a normal distribution around the mean, of a hundred-thousandth of its covariance.)
    """
    mean = weight.float().mean(dim=0, keepdim=True).to(weight.dtype)
    return torch.cat([weight, mean.expand(rows, -1)])


def _rules(rows: int) -> list[Rule]:
    def extended(weight: Tensor) -> tuple[Tensor]:
        return (extend_rows(weight, rows),)

    projector = {"0": "linear_1", "2": "linear_2"}
    return [
        Rule(r"model\.embed_tokens\.weight", ("language_model.model.embed_tokens.weight",), extended),
        Rule(r"lm_head\.weight", ("language_model.lm_head.weight",), extended),
        Rule(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq", ()),
        Rule(r"model\.((?:layers|norm)\..+)", (r"language_model.model.\1",)),
        *(
            Rule(rf"model\.mm_projector\.{i}\.(weight|bias)", (rf"multi_modal_projector.{name}.\1",))
            for i, name in projector.items()
        ),
    ]


# -- configuration ----------------------------------------------------------------------------------------------------
def _config(original: ConfigSection, tower: Tower, tokenizer: PreTrainedTokenizerBase) -> LlavaConfig:
    common = common_fields(original)
    vocabulary = max(common["vocab_size"], len(tokenizer))
    fields = {
        **common,
        "vocab_size": -(-vocabulary // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE,
        "pad_token_id": tokenizer.pad_token_id,
        "rope_theta": original.number("rope_theta", 10000.0),
        **original.pick("rope_scaling", "attention_bias"),
    }
    feature = original.expect("mm_vision_select_feature", "patch", "cls_patch", default="patch")
    side = tower.config.image_size // tower.config.patch_size
    return original.build(
        LlavaConfig,
        text_config=original.build(LlamaConfig, **fields),
        vision_config=tower.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=side**2 + (feature == "cls_patch"),
        vision_feature_layer=original.vision_layer("mm_vision_select_layer", tower.config.num_hidden_layers),
        vision_feature_select_strategy="default" if feature == "patch" else "full",
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
        architectures=["LlavaForConditionalGeneration"],
        dtype=original.dtype(),
    )


def _generation_config(tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return GenerationConfig(**tokens)


def _plan(original: ConfigSection, config: LlavaConfig, head_mask: Path | None) -> PruningPlan | None:
    if head_mask is None:
        return None
    if not is_pruned(original):
        raise UserError(f"--head_mask is given, but {original.where.rstrip(': ')} has no fields of a pruned checkpoint")
    return official_plan(original, family_of(config).dims(config), head_mask)


def _save_processor(
    folder: Path, tokenizer: PreTrainedTokenizerBase, config: LlavaConfig, preprocessing: dict[str, Any]
) -> None:
    tokenizer.save_pretrained(folder)
    processor = {
        "processor_class": "LlavaProcessor",
        "image_token": IMAGE_TOKEN,
        "num_additional_image_tokens": 1,
        "patch_size": config.vision_config.patch_size,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
    }
    for name, content in (("processor_config.json", processor), ("preprocessor_config.json", preprocessing)):
        write_text(folder / name, json.dumps(content, indent=2) + "\n")
    write_text(folder / "chat_template.jinja", VICUNA)
