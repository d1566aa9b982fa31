"""The prompt that costs are predicted for and prefill is measured on."""

from typing import Any

from torch import nn

from yopo_train.cost import Prompt, kv_cache_bytes, prefill_flops, visual_flops
from yopo_train.data.collate import EvalCollator
from yopo_train.data.rows import Rows
from yopo_train.errors import UserError
from yopo_train.models import family_of
from yopo_train.models.prompt import visual_mask
from yopo_train.plan import PruningPlan

CANDIDATES = 32


def typical_batch(model: nn.Module, processor: Any, rows: Rows) -> dict[str, Any]:
    """A batch of one: the prompt with images whose number of tokens is the median of the first rows.

    Raises
    ------
    UserError
        None of them has an image.
    """
    collate = EvalCollator(processor)
    batches = [collate([rows[index]]) for index in range(min(CANDIDATES, len(rows)))]
    batches = [batch for batch in batches if visual_mask(model, batch).any()]
    if not batches:
        raise UserError(f"{rows.source}: none of the first {CANDIDATES} rows has an image, expected one to plan for")
    return sorted(batches, key=lambda batch: batch["input_ids"].shape[1])[len(batches) // 2]


def costs(model: nn.Module, plan: PruningPlan | None, prompt: Prompt) -> dict[str, Any]:
    """Costs by formula of the base model and, with a plan, of the pruned one: JSON-able, for ``results.json``."""
    dims = family_of(model).dims(model.config)
    plans = {"base": PruningPlan.dense(dims)} | ({"pruned": plan} if plan is not None else {})
    vocabulary, width = model.config.get_text_config().vocab_size, model.dtype.itemsize
    found: dict[str, Any] = {
        name: {
            "visual_flops": visual_flops(plan, prompt.grids),
            "prefill_flops": prefill_flops(plan, prompt, vocabulary),
            "kv_cache_bytes": kv_cache_bytes(plan, prompt, width),
        }
        for name, plan in plans.items()
    }
    found["prompt"] = {
        "grids": [list(grid) for grid in prompt.grids],
        "visual_tokens": prompt.visual_tokens,
        "text_tokens": prompt.text_tokens,
    }
    return found
