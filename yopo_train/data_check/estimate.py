"""What training will need, by formula: steps, and bytes on a device. Estimates, and called so.

Bytes kept for the backward pass, a token and decoder layer, where the base's weights are frozen or trained alike:
inputs of both norms and their results (4 hidden), queries and attention's output (2 heads · head_dim), keys and values
(2 kv_heads · head_dim), and gate, up, their activation and product (4 intermediate). So counts "Reducing Activation
Recomputation in Large Transformer Models" (arXiv 2205.05198, section 4.1) for a layer with fused attention; the norms'
results in float32 are added. With gradient checkpointing a layer keeps its input alone, and one layer is whole at a
time. Left out: the vision tower, whose activations nobody keeps in LoRA mode, and what kernels allocate for themselves.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText, PreTrainedConfig

from yopo_train.models import family_of
from yopo_train.models.loading import load_config
from yopo_train.plan import ModelDims, PruningPlan
from yopo_train.recovery import YopoModule

FLOAT32 = 4
ANSWER_SHARE = 0.25
"""Share of the text tokens that are taken to have labels, and so logits, where nobody has counted them."""
BITS = {"nf4": 4, "fp4": 4, "int8": 8}


def training_steps(rows: int, batch_size: int, world: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Batches, optimizer steps and epochs of a fit.

    Parameters
    ----------
    rows
        Visited in an epoch, by all processes.
    settings
        The section trainer.
    """
    accumulate = settings.get("accumulate_grad_batches") or 1
    batches = -(-(rows // world) // batch_size)
    limit = settings.get("limit_train_batches")
    if limit is not None:
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    an_epoch = -(-batches // accumulate)
    steps, epochs = settings.get("max_steps"), settings.get("max_epochs")
    wanted = [steps] if steps not in (None, -1) else []
    wanted += [epochs * an_epoch] if epochs not in (None, -1) else []
    total = min(wanted) if wanted else None
    return {
        "batches_per_epoch": batches,
        "steps_per_epoch": an_epoch,
        "steps": total,
        "epochs": total / an_epoch if total is not None and an_epoch else None,
        "processes": world,
        "rows_per_step": batch_size * world * accumulate,
    }


def processes(settings: Mapping[str, Any]) -> int:
    """How many processes the section trainer asks for; of what it leaves open, those of this machine."""
    devices, nodes = settings.get("devices", "auto"), settings.get("num_nodes") or 1
    if isinstance(devices, list | tuple):
        return len(devices) * nodes
    if str(devices).lstrip("-").isdigit() and int(devices) > 0:
        return int(devices) * nodes
    on_cpu = settings.get("accelerator") == "cpu" or not torch.cuda.is_available()
    return nodes * (1 if on_cpu else torch.cuda.device_count())


def empty_model(module: YopoModule) -> nn.Module:
    """The base model without its weights, made trainable as a fit would; the module is left as it was."""
    config = load_config(module.base, module.revision)
    if module.base_dtype != "auto":
        config.dtype = getattr(torch, module.base_dtype)
    options = module.lora_options
    with torch.device("meta"):
        module.model = AutoModelForImageTextToText.from_config(config, dtype=config.dtype or torch.float32)
        try:
            # values change no size, and those that are computed from the base's need a base
            module.lora_options = replace(options, init_lora_weights=True)
            module.start_tuning()
            return module.model
        finally:
            module.model, module.lora_options = None, options


def weight_bytes(model: nn.Module, quantization: str | None) -> dict[str, int]:
    """Bytes of the weights, of the trained ones among them, and of what training keeps for those.

    A trained weight has a gradient and AdamW's two moments, all of its own type.
    """
    bits, frozen, trained = BITS.get(str(quantization)), 0, 0
    for name, weight in model.named_parameters():
        size = weight.numel() * weight.element_size()
        if weight.requires_grad:
            trained += size
        elif bits is not None and "language_model.layers" in name and weight.dim() == 2:
            frozen += weight.numel() * bits // 8
        else:
            frozen += size
    return {"frozen": frozen, "trained": trained, "gradients": trained, "optimizer": 2 * trained}


def activation_bytes(
    dims: ModelDims, plan: PruningPlan | None, tokens: int, visual: int, width: int, checkpointing: bool
) -> int:
    """Bytes kept for the backward pass of one batch, in all decoder layers; see above.

    Parameters
    ----------
    plan
        What visual tokens skip; None where nothing is pruned, or not decided yet.
    tokens, visual
        Of the largest batch: all, and the visual ones among them.
    width
        Bytes of a value.
    """
    layers = []
    for layer in range(dims.layers):
        text = (tokens - visual) * _layer(dims, dims.heads, dims.kv_heads, dims.intermediate, width)
        if plan is None:
            layers.append(text + visual * _layer(dims, dims.heads, dims.kv_heads, dims.intermediate, width))
        elif layer < plan.depth:
            active = int(plan.heads[layer].sum()), int(plan.kv_heads_needed(layer).sum())
            layers.append(text + visual * _layer(dims, *active, int(plan.channels[layer].sum()), width))
        else:
            layers.append(text)
    if not checkpointing:
        return sum(layers)
    return dims.layers * tokens * dims.hidden * width + max(layers)


def _layer(dims: ModelDims, heads: int, kv_heads: int, channels: int, width: int) -> int:
    """Bytes of one token in one layer."""
    values = 4 * dims.hidden + 2 * dims.head_dim * (heads + kv_heads) + 4 * channels
    return values * width + 2 * dims.hidden * FLOAT32


def memory(
    module: YopoModule, model: nn.Module, plan: PruningPlan | None, largest: Mapping[str, int], precision: Any
) -> dict[str, Any]:
    """Bytes on a device while a step of the largest batch runs, by formula."""
    config: PreTrainedConfig = model.config
    dims = family_of(config).dims(config)
    half = str(precision).startswith(("16", "bf16")) or str(config.dtype) in ("torch.bfloat16", "torch.float16")
    width = 2 if half else FLOAT32
    tokens, visual = largest["tokens"], largest["visual_tokens"]
    kept = activation_bytes(dims, plan, tokens, visual, width, module.gradient_checkpointing)
    logits = int(ANSWER_SHARE * (tokens - visual)) * config.get_text_config().vocab_size * 2 * FLOAT32
    parts = weight_bytes(model, module.quantization) | {"activations": kept, "logits": logits}
    return {"parts": parts, "total": sum(parts.values()), "assumes": assumptions(module, plan)}


def assumptions(module: YopoModule, plan: PruningPlan | None) -> str:
    """What the estimate takes for granted."""
    if plan is not None:
        under = f"plan {plan.id}"
    else:
        under = "nothing pruned yet: a plan will need less" if module.prunes else "nothing pruned"
    return f"by formula, on each device, weights unsharded, AdamW; {under}; a quarter of the text has labels"
