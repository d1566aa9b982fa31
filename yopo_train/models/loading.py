"""Loading a base model and its processor from the Hub or a local folder."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging

from ..errors import UserError
from . import family_of

DTYPES = ("auto", "float32", "bfloat16", "float16")


def load_base(
    path: str | Path,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    attn_implementation: str = "sdpa",
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

    Returns
    -------
    (PreTrainedModel, ProcessorMixin)

    Raises
    ------
    UserError
        Unknown path, no processor, unsupported family, unknown dtype, or weights that are missing or damaged.
    """
    if isinstance(dtype, str) and dtype not in DTYPES:
        raise UserError(f"dtype is {dtype!r}, expected one of: {', '.join(DTYPES)}")
    name = str(path)
    config = _from_pretrained(AutoConfig, name, "config.json", revision=revision)
    family_of(config)
    processor = _from_pretrained(AutoProcessor, name, "processor", revision=revision)
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise UserError(f"{name} has no processor of a multimodal model: found only {type(processor).__name__}")
    model, report = _from_pretrained(
        AutoModelForImageTextToText,
        name,
        "weights",
        revision=revision,
        dtype=dtype,
        attn_implementation=attn_implementation,
        output_loading_info=True,
    )
    if missing := sorted(report["missing_keys"]):  # transformers makes them up at random, and warns
        raise UserError(f"{name} lacks {len(missing)} weights that its config.json asks for, the first is {missing[0]}")
    return model.eval(), processor


def _from_pretrained(cls, name: str, what: str, **kwargs):
    """``cls.from_pretrained`` with one clear line instead of the library's paragraphs."""
    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise UserError(f"cannot load the {what} of {name!r}: there is no such folder")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what its report says comes as an error
    try:
        return cls.from_pretrained(name, **kwargs)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        where = "local folder" if Path(name).is_dir() else "local folder or Hub model id"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"cannot load the {what} of {name!r} ({where}): {reason}") from error
    finally:
        logging.set_verbosity(verbosity)
