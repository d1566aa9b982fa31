"""Winning back what pruning lost: LoRA or full finetuning."""

from yopo_train.recovery.adapter import attach_lora, load_adapter, lora_targets, save_adapter
from yopo_train.recovery.lora_options import LoraOptions
from yopo_train.recovery.module import YopoModule
from yopo_train.recovery.options import DistillationOptions, OptimizerOptions

__all__ = [
    "DistillationOptions",
    "LoraOptions",
    "OptimizerOptions",
    "YopoModule",
    "attach_lora",
    "load_adapter",
    "lora_targets",
    "save_adapter",
]
