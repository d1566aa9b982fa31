"""Which parts of a model a full finetune trains, and which weights a batch may leave out."""

from collections.abc import Sequence
from typing import Literal, get_args

from torch import nn

from yopo_train.errors import UserError
from yopo_train.models import family_of, unwrap

Part = Literal["vision", "projector", "language", "embeddings"]


def parts_of(model: nn.Module) -> dict[Part, list[nn.Parameter]]:
    """Every weight of a model by the part it belongs to.

    Embeddings are those of tokens and the LM head; language is the rest of the language model. What is in no module of
    its own, like the newline that LLaVA-NeXT puts behind rows of an image, counts as projector.
    """
    base, family = unwrap(model), family_of(model)
    core = family.core(base)
    modules = {
        "embeddings": [base.get_input_embeddings(), base.get_output_embeddings()],
        "language": [family.text_model(base)],
        "projector": family.projectors(core),
        "vision": [family.vision_tower(core)],
    }
    owner: dict[nn.Parameter, Part] = {}
    for part, found in modules.items():
        for module in found:
            for weight in module.parameters():
                owner.setdefault(weight, part)
    parts: dict[Part, list[nn.Parameter]] = {part: [] for part in get_args(Part)}
    for weight in base.parameters():
        parts[owner.get(weight, "projector")].append(weight)
    return parts


def train_all_but(model: nn.Module, frozen: Sequence[Part]) -> None:
    """Make every weight trainable except those of the frozen parts.

    Raises
    ------
    UserError
        Nothing is left to train.
    """
    parts = parts_of(model)
    for part, weights in parts.items():
        for weight in weights:
            weight.requires_grad_(part not in frozen)
    if not any(weight.requires_grad for weight in model.parameters()):
        raise UserError(f"model.freeze is {list(frozen)}, expected to leave a part that can be trained")


def may_be_unused(model: nn.Module) -> bool:
    """Whether some trained weight gets no gradient from a batch without images.

    (Nor does a vision tower's last layer get one, from any batch, where the projector reads an earlier one.)
    """
    parts = parts_of(model)
    return any(weight.requires_grad for part in ("vision", "projector") for weight in parts[part])
