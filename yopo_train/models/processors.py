"""The processor that belongs to a base model: images and chat text to model inputs."""

from __future__ import annotations

import json
from typing import Any

from transformers import PreTrainedConfig, ProcessorMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import cached_file, is_torchvision_available

from ..errors import UserError
from . import family_of

VIDEO = "video_processor"
PROCESSOR, PREPROCESSOR = "processor_config.json", "preprocessor_config.json"


def load_processor(name: str, config: PreTrainedConfig, revision: str | None = None) -> ProcessorMixin:
    """The processor of a model's folder or Hub id.

    Video processors need torchvision. Where it is not installed, or the folder has no video processor, the processor is
    loaded without one, and takes images and text as ever. Without torchvision images go through transformers' PIL image
    processors.

    Parameters
    ----------
    config : PreTrainedConfig
        Of the model, whose type says which processor it is.

    Raises
    ------
    UserError
        The processor is of another family, or its tokenizer does not have the model's image token.
    OSError, ValueError, ...
        What ``from_pretrained`` raises where files are missing or damaged.
    """
    expected = PROCESSOR_MAPPING[type(config)]
    found = _declared_class(name, revision)
    if found not in (None, expected.__name__):
        raise UserError(
            f"{name} holds the processor of another family: {found}, expected {expected.__name__} for a model of type "
            f"{config.model_type!r}"
        )
    complete = VIDEO not in expected.get_attributes() or _has_videos(name, revision)
    processor = (expected if complete else images_only(expected)).from_pretrained(
        name,
        revision=revision,
        trust_remote_code=False,  # unless told, transformers asks the user whether to run a tokenizer's own code
    )
    _check_image_token(processor, config, name)
    return processor


def images_only(cls: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """A processor class that neither wants nor saves a video processor, and else is ``cls``; saved under its name."""

    def get_attributes(_: type) -> list[str]:
        return [name for name in cls.get_attributes() if name != VIDEO]

    methods = {"get_attributes": classmethod(get_attributes), "__module__": cls.__module__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls,), methods)


def _declared_class(name: str, revision: str | None) -> str | None:
    """What the files say, in the order in which ``AutoProcessor`` asks them."""
    for file in (PROCESSOR, PREPROCESSOR, "tokenizer_config.json"):
        declared = _read(name, file, revision).get("processor_class")
        if declared is not None:
            return declared
    return None


def _has_videos(name: str, revision: str | None) -> bool:
    if not is_torchvision_available():
        return False
    older = ("video_preprocessor_config.json", PREPROCESSOR)
    return VIDEO in _read(name, PROCESSOR, revision) or any(_read(name, file, revision) for file in older)


def _read(name: str, file: str, revision: str | None) -> dict[str, Any]:
    """A JSON file of the folder or Hub repository; empty where there is none."""
    quiet = ("gated_repo", "missing_entries", "connection_errors")
    path = cached_file(name, file, revision=revision, **{f"_raise_exceptions_for_{what}": False for what in quiet})
    if path is None:
        return {}
    with open(path, encoding="utf-8") as opened:
        return json.load(opened)


def _check_image_token(processor: Any, config: PreTrainedConfig, name: str) -> None:
    """The processor writes the id that the model looks for."""
    token, expected = processor.image_token, family_of(config).placeholders(config)["image"]
    found = processor.tokenizer.get_vocab().get(token)
    if found != expected:
        has = f"has {token!r} as token {found}" if found is not None else f"has no token {token!r}"
        raise UserError(f"the tokenizer of {name} {has}, but its config.json says that the image token is {expected}")
