"""What a pruned model is told by its inputs: which tokens are visual, and what cannot be asked of them.

Two methods of the instance see a call before the model does: a forward pre-hook of the multimodal core, which hands the
visual tokens on to the text model, and the whole model's ``forward``, which alone sees labels and ``logits_to_keep``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..models import Family
from ..models.prompt import visual_mask
from .layout import VisualTokens
from .state import PruneState
from .vision import kept_inputs

IGNORE = -100  # of labels, as in transformers


def announce_visual_tokens(core: nn.Module, family: Family, state: PruneState) -> None:
    """Tell the text model, with every call of the core, which tokens are visual."""
    hook = partial(_announce, family=family, state=state, names=parameter_names(type(core).forward))
    state.handles.append(core.register_forward_pre_hook(hook, with_kwargs=True))


def _announce(
    core: nn.Module, args: tuple, kwargs: dict[str, Any], family: Family, state: PruneState, names: list[str]
) -> tuple[tuple, dict[str, Any]]:
    kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
    if not state.prunes or not family.has_images(kwargs):
        return (), kwargs
    if kwargs.get("input_ids") is None:
        raise UserError("a pruned model needs input_ids to find the visual tokens, found only inputs_embeds")
    mask = visual_mask(core, kwargs)
    grids = family.grids(core.config, mask, {**kwargs, **kept_inputs(family, kwargs)})
    return (), {**kwargs, "visual_tokens": VisualTokens(mask, grids)}


def answerable_forward(model: nn.Module, family: Family) -> Callable:
    """A ``forward`` for the whole model that refuses what only visual tokens could answer, and else is the model's."""
    names = parameter_names(type(model).forward)

    @wraps(type(model).forward)  # `generate` reads its signature
    def forward(self, *args, **kwargs):
        state: PruneState = self.yopo_state
        if state.prunes:
            _refuse_unanswerable(family, self, {**dict(zip(names, args, strict=False)), **kwargs})
        return state.original(self, "forward")(*args, **kwargs)

    return forward


def parameter_names(method: Callable) -> list[str]:
    """Names of a method's parameters in order, without ``self``."""
    return list(inspect.signature(method).parameters)[1:]


def _refuse_unanswerable(family: Family, model: nn.Module, inputs: Mapping[str, Any]) -> None:
    labels, keep = inputs.get("labels"), inputs.get("logits_to_keep", 0)
    last = keep if isinstance(keep, int) else 0
    if not family.has_images(inputs) or inputs.get("input_ids") is None or (labels is None and not last):
        return
    visual = visual_mask(model, inputs)
    if labels is not None:
        refuse_visual_labels(visual, labels)
    if last and visual[:, -last:].any():
        sample = int(visual[:, -last:].any(1).nonzero()[0])
        raise UserError(
            f"sample {sample} of the batch ends in a visual token, and a pruned model has no logits there: "
            "expected text behind the last image"
        )


def refuse_visual_labels(visual: Tensor, labels: Tensor) -> None:
    """Raise a ``UserError`` for a label on a visual token, or on the token behind one, which it would have to predict.

    Parameters
    ----------
    visual : Tensor
        Bool ``(batch, tokens)``.
    labels : Tensor
        ``(batch, tokens)``, -100 where there is none.
    """
    behind = torch.cat((torch.zeros_like(visual[:, :1]), visual[:, :-1]), 1)
    wrong = (labels != IGNORE) & (visual | behind)
    if wrong.any():
        sample, token = wrong.nonzero()[0].tolist()
        what = "is a visual token" if visual[sample, token] else "stands right behind a visual token"
        raise UserError(
            f"token {token} of sample {sample} has a label and {what}, but a pruned model predicts nothing from "
            "visual tokens: expected the label -100 there"
        )
