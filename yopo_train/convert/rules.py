"""How the tensors of one layout become those of another: rules, and what they make, checked before anything runs.

Both of ``transformers``' layouts that are written here are named as the checkpoints on the Hub are
(``language_model.model.layers.0...``, ``vision_tower...``, ``multi_modal_projector...``): every version reads those,
whatever it calls its own modules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from .files import ConfigSection
from .shards import Shard

Split = Callable[[Tensor], Sequence[Tensor]]


def _whole(tensor: Tensor) -> tuple[Tensor]:
    return (tensor,)


@dataclass(frozen=True)
class Rule:
    r"""What becomes of the tensors whose name ``source`` matches.

    Parameters
    ----------
    source : str
        Regular expression of the whole name.
    targets : tuple of str
        New names, with ``\1`` for the expression's groups; none for a tensor that is not needed.
    split : callable
        From the tensor to one for each target.
    """

    source: str
    targets: tuple[str, ...]
    split: Split = _whole


@dataclass
class Job:
    """One shard of the source, and what is written of it: by source name, the new names and the split."""

    shard: Shard
    outputs: dict[str, tuple[tuple[str, ...], Split]] = field(default_factory=dict)
    size: int = 0

    def run(self) -> dict[str, Tensor]:
        """The new tensors: copies, so that no two of them share memory."""
        made: dict[str, Tensor] = {}
        for name, tensor in self.shard.tensors():
            targets, split = self.outputs.get(name, ((), _whole))
            if targets:
                parts = split(tensor)
                made |= {target: part.contiguous().clone() for target, part in zip(targets, parts, strict=True)}
        return made


def plan_jobs(shards: Sequence[Shard], rules: Sequence[Rule], made: dict[str, torch.Size]) -> list[Job]:
    """One job a shard, from the shards' headers alone.

    Parameters
    ----------
    made
        Filled with the shapes of all new tensors.

    Raises
    ------
    UserError
        A tensor that no rule names, that is no weight, of a shape that its rule cannot split, or that comes twice.
    """
    jobs = []
    for shard in shards:
        job = Job(shard)
        for name, tensor in shard.header().items():
            targets, split = _route(rules, name, shard.path)
            if not targets:
                continue
            if not tensor.is_floating_point():
                raise UserError(f"{shard.path}: {name} is of type {tensor.dtype}, expected floating-point weights")
            try:
                parts = list(zip(targets, split(tensor), strict=True))
            except (RuntimeError, ValueError, IndexError):
                raise UserError(
                    f"{shard.path}: {name} has shape {tuple(tensor.shape)}, which does not fit config.json"
                ) from None
            for target, part in parts:
                if target in made:
                    raise UserError(f"{shard.path}: {name} is there twice")
                made[target] = part.shape
                job.size += part.numel() * part.element_size()
            job.outputs[name] = (targets, split)
        jobs.append(job)
    return [job for job in jobs if job.outputs]


def _route(rules: Sequence[Rule], name: str, path: Path) -> tuple[tuple[str, ...], Split]:
    for rule in rules:
        if match := re.fullmatch(rule.source, name):
            return tuple(match.expand(target) for target in rule.targets), rule.split
    raise UserError(f"{path}: unknown tensor {name}, expected those of the original layout")


def check_complete(
    made: dict[str, torch.Size], model_class: type, config: Any, original: ConfigSection, source: Path
) -> None:
    """Compare the new tensors with what ``model_class(config)`` loads.

    Raises
    ------
    UserError
        One is missing, too many, or of another shape; names the first. Or ``original`` describes no such model.
    """
    with torch.device("meta"):
        model = original.build(model_class, config)
    clip = config.vision_config.model_type == "clip_vision_model"
    expected = {hub_name(name, clip): tensor.shape for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        expected.pop("language_model.lm_head.weight")
    if missing := [name for name in expected if name not in made]:
        raise UserError(f"{source}: {len(missing)} tensors are missing, the first is what becomes {missing[0]}")
    for name, shape in made.items():
        if name not in expected:
            raise UserError(f"{source}: a tensor becomes {name}, which the model of config.json does not have")
        if shape != expected[name]:
            raise UserError(
                f"{source}: a tensor becomes {name} of shape {tuple(shape)}, but config.json says "
                f"{tuple(expected[name])}"
            )


def hub_name(name: str, clip: bool) -> str:
    """A module's parameter as checkpoints on the Hub name it.

    Parameters
    ----------
    clip : bool
        The vision tower is CLIP's, which lost a level of modules in transformers 5; files have kept it.
    """
    if name.startswith("lm_head."):
        return f"language_model.{name}"
    name = name.removeprefix("model.")
    name = re.sub(r"^language_model\.", "language_model.model.", name)
    return re.sub(r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model.", name) if clip else name
