"""LoRA on the language model, and the adapter folder.

The folder is an ordinary peft adapter in the base model's own order of heads and channels, whatever plan was on the
model when it was trained: plain peft loads it onto the dense model.
"""

import re
import warnings
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from textwrap import shorten

from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from yopo_train.errors import UserError, first_line
from yopo_train.models import family_of, unwrap
from yopo_train.pruning import base_order
from yopo_train.pruning.order import BLOCKS
from yopo_train.recovery.lora_options import LoraOptions
from yopo_train.run_folder import new_folder

WEIGHTS = "adapter_model.safetensors"


def lora_targets(model: nn.Module, options: LoraOptions) -> str:
    """The regular expression of the layers that get an adapter.

    Names alone would also hit the vision tower, so a list of names is tied to the language model.

    Raises
    ------
    UserError
        It is no regular expression, or no layer matches it; or there is no decoder layer of a number.
    """
    wanted = options.target_modules
    if isinstance(wanted, str):
        pattern = wanted
    else:
        pattern = _of_layers(model, options.layers_to_transform)
        if wanted is not None:
            names = "|".join(re.escape(name) for name in wanted)
            pattern = rf"(?={pattern}$).*\.({names})"
    try:
        found = any(re.fullmatch(pattern, name) for name, _ in model.named_modules())
    except re.error as error:
        raise UserError(f"model.lora.target_modules is {wanted!r}, not a regular expression: {error}") from None
    if not found:
        raise UserError(f"model.lora.target_modules is {wanted}, but no layer has such a name")
    return f"{pattern}|{_of_projectors(model)}" if options.projector else pattern


def _of_layers(model: nn.Module, numbers: list[int] | None) -> str:
    """The family's expression, for some decoder layers only."""
    every, depth = family_of(model).lora_targets(), family_of(model).dims(unwrap(model).config).layers
    if numbers is None:
        return every
    if max(numbers) >= depth:
        raise UserError(f"model.lora.layers_to_transform names layer {max(numbers)}, expected 0 to {depth - 1}")
    return every.replace(r"\.layers\.\d+\.", rf"\.layers\.({'|'.join(map(str, sorted(numbers)))})\.")


def _of_projectors(model: nn.Module) -> str:
    family, base = family_of(model), unwrap(model)
    linear = {
        part for module in family.projectors(family.core(base)) for part in module.modules() if type(part) is nn.Linear
    }
    return "|".join(re.escape(name) for name, module in base.named_modules() if module in linear)


def attach_lora(model: nn.Module, options: LoraOptions) -> PeftModel:
    """Add a trainable adapter; everything else is frozen.

    Parameters
    ----------
    model
        A base model, pruned or not.

    Raises
    ------
    UserError
        No layer matches ``target_modules``, or peft does not accept the options.
    """
    settings = asdict(options) | {"target_modules": lora_targets(model, options)}
    del settings["projector"], settings["layers_to_transform"]  # are in the expression
    _check_saved_modules(model, options)
    try:
        with base_order(model) if options.depends_on_weights else nullcontext():
            return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    except (ValueError, TypeError, NotImplementedError, IndexError) as error:
        raise UserError(f"section model.lora: {shorten(str(error), 300)}") from error  # peft may print the whole model


def _check_saved_modules(model: nn.Module, options: LoraOptions) -> None:
    """A copy of what the plan reorders would stand in an order of its own."""
    layers = family_of(model).text_model(unwrap(model)).layers
    reordered = {part for layer in layers for block in BLOCKS for part in layer.get_submodule(block).modules()}
    for wanted in options.modules_to_save or []:
        found = {name: module for name, module in model.named_modules() if name.endswith(wanted)}  # as peft asks it
        if not found:
            raise UserError(f"model.lora.modules_to_save names {wanted!r}, but no module has such a name")
        for name, module in found.items():
            if not reordered.isdisjoint(module.modules()):
                raise UserError(
                    f"model.lora.modules_to_save names {wanted!r}, which is {name}: expected modules outside of the "
                    "decoder layers' attention and FFN (target_modules is for those)"
                )


def save_adapter(
    model: PeftModel, folder: str | Path, base: str, revision: str | None, weights: dict[str, Tensor] | None = None
) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``.

    Parameters
    ----------
    base, revision
        What the adapter names as its base model.
    weights
        The trained ones by their name in the model, in the base's order; else they are taken from the model.
    """
    config = model.peft_config["default"]
    config.base_model_name_or_path, config.revision = base, revision
    with new_folder(folder) as temporary:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=".*have invalid shape"
            )  # so peft 0.21 calls the bias of lora_bias
            model.save_pretrained(temporary, state_dict=weights, save_embedding_layers=False)  # would ask for the base
        # peft's card is a questionnaire without answers
        (temporary / "README.md").unlink(missing_ok=True)


def load_adapter(model: nn.Module, folder: str | Path) -> PeftModel:
    """Put a saved adapter on a base model, pruned or not, for inference.

    Raises
    ------
    UserError
        No adapter there, or one whose weights are not exactly those that the model asks for. (peft only warns.)
    """
    folder = Path(folder)
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder}: no {WEIGHTS} in it, expected an adapter folder")
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            found = set(file.offset_keys())
        with base_order(model), warnings.catch_warnings():  # the adapter may begin with the base's weights
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # an error below
            loaded = PeftModel.from_pretrained(model, str(folder))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder}: the adapter does not fit the model: {first_line(error)}") from error
    expected = set(get_peft_model_state_dict(loaded, save_embedding_layers=False))
    if found != expected:
        name = min(found ^ expected)
        raise UserError(f"{folder}: adapter weight {name} is {'unexpected' if name in found else 'missing'}")
    return loaded
