"""The plan inside a pruned checkpoint of YOPO's authors: fields of its ``config.json`` and a head mask in a file.

What the fields mean is read from their code (``modeling_llama_prune.py``, arXiv 2410.06169):

- ``attncut_w``: visual queries see visual keys at a row and column distance of at most ``int((attncut_w - 1) / 2)``;
- ``layercut_num``: from this layer on the attention that visual keys get is dropped, so they are seen in layers
  ``0 .. layercut_num - 1``; visual tokens live on behind it, with the same heads and channels, and their keys keep
  their share of the softmax;
- ``mlpcut_ratio``: visual tokens keep the first ``int(intermediate_size / mlpcut_ratio)`` FFN channels, in every layer;
- ``headcut_num`` only chooses one of their mask files. The mask, ``(layers, heads)``, multiplies the attention that
  visual keys get and the output of visual queries: a head with 1 is active, with 0 pruned;
- ``sprompt_len`` is the position of the image in the prompt (35), which a plan finds in each prompt by itself.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ..errors import UserError
from ..head_masks import read_head_mask
from ..plan import ModelDims, PruningPlan
from .files import ConfigSection

FIELDS = ("attncut_w", "layercut_num", "headcut_num", "mlpcut_ratio", "sprompt_len")
NEEDED = ("attncut_w", "layercut_num", "mlpcut_ratio")


def is_pruned(config: ConfigSection) -> bool:
    """Whether a ``config.json`` is that of a pruned checkpoint."""
    return any(name in config for name in FIELDS)


def official_plan(config: ConfigSection, dims: ModelDims, head_mask: Path) -> PruningPlan:
    """The plan, with the authors' semantics.

    Parameters
    ----------
    config : ConfigSection
        Of the pruned checkpoint.
    dims : ModelDims
        Of its language model.
    head_mask : Path
        See `read_head_mask`.

    Raises
    ------
    UserError
        A field is missing or makes no sense, or the mask has another shape or values besides 0 and 1.
    """
    window, depth, ratio = (config.number(name) for name in NEEDED)
    if int(depth) != depth or not 0 <= depth <= dims.layers:
        raise UserError(f"{config.where}layercut_num is {depth}, expected an integer from 0 to {dims.layers}")
    if window < 1 or ratio < 1:
        name = "attncut_w" if window < 1 else "mlpcut_ratio"
        raise UserError(f"{config.where}{name} is {config.get(name)}, expected 1 or more")
    prefix = torch.arange(dims.intermediate) < int(dims.intermediate / ratio)
    return PruningPlan(
        dims,
        heads=read_head_mask(head_mask, dims),
        channels=prefix.repeat(dims.layers, 1),
        radius=int((window - 1) / 2),
        depth=int(depth),
        base_model=config.text("_name_or_path", None),
        made_by={"how": "converted", "head_mask": head_mask.name, **config.pick(*FIELDS)},
        semantics="official",
    )


def for_compact(plan: PruningPlan) -> PruningPlan:
    """The same plan for the compact backend, where visual tokens end with the visual depth."""
    visual = (torch.arange(plan.dims.layers) < plan.depth).unsqueeze(1)
    return replace(plan, heads=plan.heads & visual, channels=plan.channels & visual, semantics="compact")
