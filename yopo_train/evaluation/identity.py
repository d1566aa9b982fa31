"""Whose answers a predictions file holds: a fingerprint of the model as it is in memory."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import nn

from ..models import unwrap
from ..pruning import active_plan

SAMPLES = 32
"""Values of each weight that count: any training changes some of them."""


@torch.no_grad()
def model_digest(model: nn.Module) -> str:
    """Twelve hexadecimal digits of names, shapes, types and some values of all weights.

    Names of checkpoints tell little, as folders move and adapters change. Weights that are offloaded to disk count by
    name, shape and type.
    """
    digest, values = hashlib.sha256(), []
    for name, weight in model.named_parameters():
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        if not weight.is_meta and weight.numel():
            flat = weight.detach().flatten()
            values.append(flat[:: -(-flat.numel() // SAMPLES)].double().cpu())
    for value in values:
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()[:12]


def processor_digest(processor: Any) -> str:
    """Twelve hexadecimal digits of what is done to images."""
    settings = processor.image_processor.to_dict()
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]


def identity_of(model: nn.Module, processor: Any) -> dict[str, Any]:
    """Plain data that is equal exactly when two models answer alike: weights, plan, adapter, image processing.

    Also the autocast of mixed precision, under which the same weights answer otherwise.
    """
    plan, device = active_plan(model), next(model.parameters()).device.type
    return {
        "model": model_digest(model),
        "class": type(unwrap(model)).__name__,
        "plan": plan.id if plan is not None else None,
        "images": processor_digest(processor),
        "autocast": str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else None,
    }
