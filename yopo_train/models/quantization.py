"""Weights in 4 or 8 bits (bitsandbytes), of the language model's linear layers alone: the base of QLoRA.

A quantized layer cannot be sliced: under a plan it is computed whole (see ``pruning/linear.py``). What a plan saves is
then the work of attention and of the layers behind the visual depth; memory is what is won.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig, PreTrainedConfig

from ..errors import UserError
from . import family_of

Quantization = Literal["nf4", "fp4", "int8"]


def quantization_config(kind: Quantization, config: PreTrainedConfig, dtype: str | torch.dtype) -> BitsAndBytesConfig:
    """What ``from_pretrained`` has to be told.

    4-bit weights have their scales quantized, too (arXiv 2305.14314, section 3). Vision tower, projector, embeddings
    and LM head stay as they are: they are small, and the last is what the loss reads.

    Parameters
    ----------
    config
        Of the model that will be loaded.
    dtype
        What it computes in; ``auto`` is the type that it was saved in.

    Raises
    ------
    UserError
        bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise UserError(
            f"model.quantization is {kind}, expected null or bitsandbytes installed: pip install 'yopo_train[qlora]'"
        )
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=_other_modules(config))
    compute = getattr(torch, dtype) if isinstance(dtype, str) and dtype != "auto" else dtype
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=(config.dtype or torch.float32) if compute == "auto" else compute,
        llm_int8_skip_modules=_other_modules(config),
    )


def keep_layout(model: nn.Module) -> None:
    """Have 4-bit weights stay as they were loaded.

    On CPUs with AVX512 bitsandbytes packs them anew at their first use without gradients: answers come faster, but
    neither training nor `plain_weight` can read them afterwards.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def plain_weight(layer: nn.Module) -> Tensor:
    """A linear layer's weight ``(out_features, in_features)``, computed from the bits where it is quantized."""
    if not type(layer).__module__.startswith("bitsandbytes"):
        return layer.weight
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    return dequantize_bnb_weight(layer.weight, getattr(layer, "state", None))


def _other_modules(config: PreTrainedConfig) -> list[str]:
    """Names of what is not the language model's layers."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    family = family_of(model)
    core = family.core(model)
    outside = [family.vision_tower(core), *family.projectors(core), model.get_output_embeddings()]
    return [name for name, module in model.named_modules() if any(module is part for part in outside)]
