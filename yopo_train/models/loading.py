"""Loading a base model and its processor from the Hub or a local folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForImageTextToText, PreTrainedConfig
from transformers.utils import cached_file, extract_commit_hash, logging

from ..errors import UserError, first_line
from . import family_of
from .processors import load_processor
from .quantization import keep_layout, quantization_config

CONVERTIBLE = {"LlavaLlamaForCausalLM": "llava", "InternVLChatModel": "internvl2"}
"""Architectures that `from_pretrained` cannot read, and the converter for each."""
LOAD_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ImportError,
    RuntimeError,
    SafetensorError,
)
"""What `from_pretrained` raises where files are missing, damaged or not what they should be."""
DTYPES = ("auto", "float32", "bfloat16", "float16")


def load_base(
    path: str | Path,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    attn_implementation: str = "sdpa",
    device_map: str | dict[str, Any] | None = None,
    max_memory: dict[int | str, int | str] | None = None,
    offload_folder: str | Path | None = None,
    quantization: str | None = None,
):
    """Load an unpruned multimodal LLM with its processor.

    Parameters
    ----------
    path : str or Path
        Hub id or local folder in the layout of ``save_pretrained``.
    revision : str, optional
        Branch, tag or commit on the Hub.
    dtype : str or torch.dtype
        ``auto`` is the type that the checkpoint was saved in.
    attn_implementation : str
        The attention of the unpruned model.
    device_map : str or dict, optional
        For a model larger than the device, which can then be calibrated, not trained: ``auto``, or which part goes
        where (a device, ``cpu`` or ``disk``); accelerate brings weights to the device while they are used. None loads
        all on the CPU.
    max_memory : dict, optional
        What ``auto`` may use of a device, like ``{0: "20GiB", "cpu": "60GiB"}``; the rest stays on disk.
    offload_folder : str or Path, optional
        Where weights are written that cannot be read from the checkpoint's own files as they are needed.
    quantization : str, optional
        ``nf4``, ``fp4`` or ``int8``, see `quantization`.

    Returns
    -------
    (PreTrainedModel, ProcessorMixin)

    Raises
    ------
    UserError
        Unknown path, unsupported family, a transformers that is too old for it, no processor or that of another family,
        unknown dtype, weights that are missing or damaged, or bitsandbytes is needed and missing.
    """
    if isinstance(dtype, str) and dtype not in DTYPES:
        raise UserError(f"dtype is {dtype!r}, expected one of: {', '.join(DTYPES)}")
    name = str(path)
    config = load_config(name, revision)
    processor = _load(load_processor, name, "processor", config=config, revision=revision)
    placement = {"device_map": device_map, "max_memory": max_memory, "offload_folder": offload_folder}
    if quantization is not None:
        placement["quantization_config"] = quantization_config(quantization, config, dtype)
        placement["device_map"] = device_map or "cpu"  # the trainer moves it; without one, all processes take device 0
    model, report = _load(
        AutoModelForImageTextToText.from_pretrained,
        name,
        "weights",
        revision=revision,
        dtype=dtype,
        attn_implementation=attn_implementation,
        use_safetensors=True,  # never a pickle
        **placement,
        output_loading_info=True,
    )
    if quantization is not None:
        keep_layout(model)
    if missing := sorted(report["missing_keys"]):  # transformers makes them up at random, and warns
        raise UserError(f"{name} lacks {len(missing)} weights that its config.json asks for, the first is {missing[0]}")
    model.config._commit_hash = _commit_of(name, revision)  # which transformers 5 no longer sets, nor saves
    return model.eval(), processor


def _commit_of(name: str, revision: str | None) -> str | None:
    """The commit of the Hub that was loaded, as the path in the cache has it; None for a local folder."""
    if Path(name).is_dir():
        return None
    file = cached_file(name, "config.json", revision=revision, _raise_exceptions_for_connection_errors=False)
    return extract_commit_hash(file, None)


def load_config(path: str | Path, revision: str | None = None) -> PreTrainedConfig:
    """The configuration of a base model.

    Raises
    ------
    UserError
        Unknown path, unsupported family, or a transformers that is too old for it.
    """
    name = str(path)
    raw, _ = _load(PreTrainedConfig.get_config_dict, name, "config.json", revision=revision)
    for architecture in raw.get("architectures") or ():
        if architecture in CONVERTIBLE:
            raise UserError(
                f"{name} is in the layout of its authors ({architecture}), expected that of transformers: convert it, "
                f"yopo-train convert {CONVERTIBLE[architecture]} {name} FOLDER"
            )
    model_type = raw.get("model_type")
    if model_type is None:
        raise UserError(f"cannot load the config.json of {name!r}: it is missing, or names no model_type")
    family_of(SimpleNamespace(model_type=model_type))
    if model_type not in CONFIG_MAPPING:
        raise UserError(
            f"transformers {transformers.__version__} is too old for {name}: it does not know model type "
            f"{model_type!r}, expected a newer one (pip install -U transformers)"
        )
    return _load(AutoConfig.from_pretrained, name, "config.json", revision=revision)


def _load(load: Callable, name: str, what: str, **kwargs):
    """``load(name)`` with one clear line instead of the library's paragraphs."""
    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise UserError(f"cannot load the {what} of {name!r}: there is no such folder")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what its report says comes as an error
    try:
        return load(name, **kwargs)
    except UserError:
        raise
    except LOAD_ERRORS as error:
        where = "local folder" if Path(name).is_dir() else "local folder or Hub model id"
        reason = first_line(error)
        raise UserError(f"cannot load the {what} of {name!r} ({where}): {reason}") from error
    finally:
        logging.set_verbosity(verbosity)
