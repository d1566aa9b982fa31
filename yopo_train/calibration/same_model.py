"""Whether scores were measured on the model that a plan is to be made for."""

from torch import nn

from yopo_train.calibration.scores import Scores
from yopo_train.calibration.weight_norms import WeightNorms
from yopo_train.errors import UserError
from yopo_train.models import family_of
from yopo_train.models.offload import resident

TOLERANCE = 0.01
"""Relative difference of norms: above what another type rounds, far below what another training changes."""


def check_same_model(scores: Scores, model: nn.Module, source: str) -> None:
    """Refuse scores of another model: of other dimensions, or of other weights in the first or the last layer.

    Names of checkpoints tell little, as folders move; the norms of the weights stand in the scores.

    Parameters
    ----------
    model
        The stock multimodal model.
    source
        What the message calls the scores, usually their path.

    Raises
    ------
    UserError
        Says what differs.
    """
    family = family_of(model)
    dims = family.dims(model.config)
    if scores.dims != dims:
        raise UserError(f"{source}: scores of a model with {scores.dims}, expected {dims}: delete that file")
    if (number := first_other_layer(scores, model)) is not None:
        name = scores.base_model or "another model"
        raise UserError(
            f"{source}: measured on {name}, whose weights in layer {number} are not those of "
            f"{model.config.name_or_path or 'this model'}: delete that file, and this model is calibrated anew"
        )


def first_other_layer(scores: Scores, model: nn.Module, tolerance: float = TOLERANCE) -> int | None:
    """The layer, of the first and the last one, whose weights are not those that the scores were measured on.

    Parameters
    ----------
    model
        The stock multimodal model, of the dimensions of the scores.
    tolerance
        Relative difference of norms that is none.
    """
    family = family_of(model)
    dims, layers = family.dims(model.config), family.text_model(model).layers
    for number in (0, dims.layers - 1):
        with resident(layers[number]):
            found = WeightNorms.of_layer(layers[number], dims).heads.cpu()
        if not found.allclose(scores.head_norms[number], rtol=tolerance, atol=0):
            return number
    return None
