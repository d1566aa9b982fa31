"""What an adapter of somebody else's is looked at for before peft gets it."""

import re
from math import prod
from typing import Any

from yopo_train.errors import UserError
from yopo_train.tensor_header import TensorHeader

PLAIN_FIELDS = frozenset(
    [
        "peft_type",
        "peft_version",
        "task_type",
        "inference_mode",
        "base_model_name_or_path",
        "revision",
        "auto_mapping",
        "r",
        "lora_alpha",
        "lora_dropout",
        "fan_in_fan_out",
        "bias",
        "target_modules",
        "exclude_modules",
        "rank_pattern",
        "alpha_pattern",
        "init_lora_weights",
        "use_rslora",
        "use_dora",
        "lora_bias",
        "modules_to_save",
        "layers_to_transform",
        "layers_pattern",
        "megatron_core",
        "qalora_group_size",
        "ensure_weight_tying",
        "trainable_token_indices",
    ]
)
"""Fields of adapter_config.json that only describe the weights. Every other one, known today or not, has to be empty:
some make peft read files, import modules, copy layers or compute on the base weights."""
PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "mica", "pissa", "olora")
_WEIGHT = re.compile(r"base_model\.model\.[A-Za-z0-9_.]+")
_REPEATED_GROUP = re.compile(r"\)(?:[*+]|\{\d*,?\d*\})")
_REPEAT = re.compile(r"(?<![\\(*+?}])(?:[*+?]|\{\d*,?\d*\})")
_GROUP = re.compile(r"(?<!\\)\(")
MOST_PATTERN, MOST_REPEATS, MOST_GROUPS = 4000, 6, 10


def check_adapter(config: Any, weights: TensorHeader, source: str) -> None:
    """Look at the content of ``adapter_config.json`` and the header of ``adapter_model.safetensors``.

    Parameters
    ----------
    source
        What a message calls their folder.

    Raises
    ------
    UserError
        Not a LoRA, a field that does more than describe weights, a rank that the weights do not have (peft allocates by
        the configuration's), a regular expression that could take for ever, or weights of other names or types.
    """
    file = f"{source}: adapter_config.json"
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise UserError(f"{file} is not the configuration of a LoRA adapter (peft_type LORA)")
    for name, value in config.items():
        if name not in PLAIN_FIELDS and value not in (None, False, {}, []):
            raise UserError(f"{file}: {name!r:.60} is {value!r:.60}, expected null: it does more than describe weights")
    if config.get("megatron_core", "megatron.core") not in ("megatron.core", None):
        raise UserError(f"{file}: megatron_core is {config['megatron_core']!r:.60}, expected 'megatron.core'")
    start = config.get("init_lora_weights", True)
    if not any(start is plain or (isinstance(start, str) and start == plain) for plain in PLAIN_STARTS):
        raise UserError(f"{file}: init_lora_weights is {start!r:.60}, expected one of {PLAIN_STARTS}")
    for name in ("base_model_name_or_path", "revision"):
        if not isinstance(config.get(name), str | None):
            raise UserError(f"{file}: {name} is {config[name]!r:.60}, expected text")
    for name in ("target_modules", "exclude_modules", "layers_pattern", "rank_pattern", "alpha_pattern"):
        for pattern in _texts(config.get(name), f"{file}: {name}"):
            _check_pattern(pattern, f"{file}: {name}")
    _check_weights(weights, source)
    _check_ranks(config, weights, file)


def _check_weights(weights: TensorHeader, source: str) -> None:
    for name, entry in weights.tensors.items():
        if not _WEIGHT.fullmatch(name) or entry.dtype not in ("F32", "F16", "BF16"):
            raise UserError(f"{source}: {name!r:.100} of type {entry.dtype} is no weight of a LoRA adapter")


def _check_ranks(config: dict[str, Any], weights: TensorHeader, file: str) -> None:
    """Every rank that peft would allocate is one that some weight has, and with it the columns of a matrix."""
    pattern = config.get("rank_pattern") or {}
    if not isinstance(pattern, dict):
        raise UserError(f"{file}: rank_pattern is {pattern!r:.60}, expected a table")
    found = [entry.shape for name, entry in weights.tensors.items() if ".lora_A." in name and len(entry.shape) > 1]
    most = max((min(shape[0], prod(shape[1:])) for shape in found), default=0)
    for name, rank in {"r": config.get("r"), **pattern}.items():
        if type(rank) is not int or not 1 <= rank <= most:
            raise UserError(f"{file}: {name!r:.60} is {rank!r:.40}, but the largest rank among the weights is {most}")


def _texts(value: Any, source: str) -> list[str]:
    """The texts in a field that may hold one, a list or the names of a table."""
    texts = [] if value is None else [value] if isinstance(value, str) else list(value) if _is_many(value) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f"{source} is {value!r:.60}, expected text or a list of texts")
    return texts


def _is_many(value: Any) -> bool:
    return isinstance(value, list | dict)


def _check_pattern(pattern: str, source: str) -> None:
    """Refuse a regular expression that backtracks without end: a repeated group, many repetitions or many groups."""
    if (
        len(pattern) > MOST_PATTERN
        or _REPEATED_GROUP.search(pattern)
        or len(_REPEAT.findall(pattern)) > MOST_REPEATS
        or len(_GROUP.findall(pattern)) > MOST_GROUPS
    ):
        raise UserError(f"{source} is {pattern!r:.100}: refused, its matching could take for ever")
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(f"{source} is {pattern!r:.100}, not a regular expression: {error}") from None
