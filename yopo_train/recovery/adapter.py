"""LoRA on the language model, and the adapter folder.

The folder is an ordinary peft adapter in the base model's own order of heads and channels, whatever plan was on the
model when it was trained: plain peft loads it onto the dense model.
"""

import re
import warnings
from dataclasses import asdict
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from torch import nn

from yopo_train.errors import UserError
from yopo_train.models import family_of
from yopo_train.recovery.options import LoraOptions
from yopo_train.run_folder import new_folder

WEIGHTS = "adapter_model.safetensors"


def lora_targets(model: nn.Module, options: LoraOptions) -> str:
    """The regular expression of the layers that get an adapter.

    Names alone would also hit the vision tower, so a list of names is tied to the language model.

    Raises
    ------
    UserError
        It is no regular expression, or no layer matches it.
    """
    wanted, every = options.target_modules, family_of(model).lora_targets()
    if wanted is None:
        return every
    names = wanted if isinstance(wanted, str) else "|".join(re.escape(name) for name in wanted)
    pattern = names if isinstance(wanted, str) else rf"(?={every}$).*\.({names})"
    try:
        found = any(re.fullmatch(pattern, name) for name, _ in model.named_modules())
    except re.error as error:
        raise UserError(f"model.lora.target_modules is {wanted!r}, not a regular expression: {error}") from None
    if not found:
        raise UserError(f"model.lora.target_modules is {wanted}, but no layer has such a name")
    return pattern


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
    try:
        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    except ValueError as error:
        raise UserError(f"section model.lora: {' '.join(str(error).split())}") from error


def save_adapter(model: PeftModel, folder: str | Path, base: str, revision: str | None) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``.

    Parameters
    ----------
    base, revision
        What the adapter names as its base model.
    """
    config = model.peft_config["default"]
    config.base_model_name_or_path, config.revision = base, revision
    with new_folder(folder) as temporary:
        model.save_pretrained(temporary, save_embedding_layers=False)  # would ask the Hub for the base
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
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # an error below
            loaded = PeftModel.from_pretrained(model, str(folder))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder}: the adapter does not fit the model: {str(error).splitlines()[0]}") from error
    expected = set(get_peft_model_state_dict(loaded, save_embedding_layers=False))
    if found != expected:
        name = min(found ^ expected)
        raise UserError(f"{folder}: adapter weight {name} is {'unexpected' if name in found else 'missing'}")
    return loaded
