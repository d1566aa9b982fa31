"""What of a configuration's ways to train does not go together."""

from collections.abc import Sequence

from yopo_train.errors import UserError
from yopo_train.recovery.lora_options import LoraOptions


def check_tuning(
    tuning: str,
    quantization: str | None,
    frozen: Sequence[str] | None,
    lora: LoraOptions,
    loss: str,
    prunes: bool,
) -> None:
    """Compare the options of the section ``model``, under their names there.

    Raises
    ------
    UserError
        For the first that cannot be had beside the others.
    """
    if frozen and tuning != "full":
        raise UserError(
            f"model.freeze is {list(frozen)}, expected null: only model.tuning full trains the base's weights"
        )
    if quantization is not None and tuning == "full":
        raise UserError(f"model.quantization is {quantization}, expected null with model.tuning full, or tuning lora")
    if quantization is not None and lora.depends_on_weights and tuning == "lora":
        found = "use_dora" if lora.use_dora else f"init_lora_weights {lora.init_lora_weights}"
        raise UserError(
            f"model.lora.{found} needs whole weights, expected model.quantization null, found {quantization}"
        )
    if loss == "ce" or tuning == "none":
        return
    if tuning == "full":
        raise UserError(
            f"model.loss is {loss}, expected ce with model.tuning full: the teacher would change with the student"
        )
    if lora.changes_base is not None:
        raise UserError(
            f"model.loss is {loss}, expected ce with {lora.changes_base}: it changes the weights that the teacher has"
        )
    if loss == "kd" and not prunes:
        raise UserError(
            "model.loss is kd, expected ce or ce+kd where nothing is pruned: the teacher is the model itself"
        )
