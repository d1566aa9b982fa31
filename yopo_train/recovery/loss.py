"""Cross-entropy on the labelled tokens, without logits for any other token."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from yopo_train.models import model_inputs
from yopo_train.models.prompt import visual_mask
from yopo_train.pruning import active_plan, refuse_visual_labels
from yopo_train.pruning.inputs import IGNORE


def answer_loss(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """Mean cross-entropy over the batch's labelled tokens: the loss that ``model(**batch)`` computes.

    The LM head runs only in the columns in which some sample of the batch has a label to predict. Over the visual
    tokens, which never have one, it would cost a sixth of what a 12 % plan leaves of a 7B model.

    Parameters
    ----------
    batch
        Model inputs and ``labels`` ``(batch, tokens)``, -100 where there is none.

    Returns
    -------
    Tensor
        A scalar, float32.

    Raises
    ------
    UserError
        Under a plan that prunes, a label that would be predicted from a visual token.
    """
    plan = active_plan(model)
    if plan is not None and not plan.is_dense:  # the model itself gets no labels here
        refuse_visual_labels(visual_mask(model, batch), batch["labels"])
    targets = F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE)
    columns = (targets != IGNORE).any(dim=0).nonzero().squeeze(1)
    logits = model(**model_inputs(batch), logits_to_keep=columns, use_cache=False).logits
    return F.cross_entropy(logits.float().flatten(0, 1), targets[:, columns].flatten(), ignore_index=IGNORE)
