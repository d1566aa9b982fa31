"""Which keys of a configuration make two runs different, and from when on."""

import os
from collections.abc import Callable
from typing import Any

# A configuration key counts from the moment on that something made with it is in the folder. A key that two groups name
# belongs to the later one: everything depends on the section data, but on the size of training batches only training
# does, and it may be lowered where memory was too small. FREE_KEYS change no result beyond rounding, see `is_free`.
KEYS_OF_EVERYTHING = (
    "seed_everything",
    "model.base",
    "model.revision",
    "model.dtype",
    "model.quantization",
    "model.max_new_tokens",
    "data",
    "trainer.limit_test_batches",
    "trainer.fast_dev_run",
    "trainer.precision",
)
KEYS_OF_PLAN = ("model.pruning", "model.plan", "model.backend")
KEYS_OF_TRAINING = (
    "model.tuning",
    "model.freeze",
    "model.lora",
    "model.optimizer",
    "model.loss",
    "model.distillation",
    "model.save_dtype",
    "data.batch_size",
    "data.max_length",
    "data.group_by_length",
    "data.train",
    "data.train_limit",
    "trainer.max_steps",
    "trainer.max_epochs",
    "trainer.accumulate_grad_batches",
    "trainer.gradient_clip_val",
    "trainer.gradient_clip_algorithm",
    "trainer.limit_train_batches",
    "trainer.overfit_batches",
    "trainer.max_time",
    "trainer.devices",
    "trainer.num_nodes",
)
FREE_KEYS = (
    "run_dir",
    "evaluation",  # each score says itself what was asked
    "data.num_workers",
    "data.eval_batch_size",
    "data.strict",  # without it a run with bad rows would not be there
    "model.gradient_checkpointing",
    "trainer.logger",
    "trainer.log_every_n_steps",
    "trainer.enable_progress_bar",
)


OFF: tuple[Any, ...] = (None, False, [], {})
"""Values of an option that is not used, as each was before it existed."""


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as one level of dotted keys: ``{"data": {"path": p}}`` is ``{"data.path": p}``."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def difference(there: dict[str, Any], here: dict[str, Any], counts: Callable[[str], bool]) -> str | None:
    """The first key, in the order in which keys matter, that counts, is not free and differs; None where none does.

    Parameters
    ----------
    there, here
        Two configurations, flat.
    counts
        Whether a key is to be compared at all.
    """
    for key in sorted(there.keys() | here.keys(), key=_rank):
        # what an older version did not have is off in its runs
        known = key in there or here[key] not in OFF
        if counts(key) and known and not is_free(key, here) and not _same(there.get(key), here.get(key)):
            return key
    return None


def is_free(key: str, config: dict[str, Any]) -> bool:
    """Whether a key changes no result; the size of test batches does where their number is limited.

    Parameters
    ----------
    config
        The whole configuration, flat.
    """
    limited = config.get("trainer.limit_test_batches") is not None or config.get("trainer.fast_dev_run")
    return under(key, FREE_KEYS) and not (key == "data.eval_batch_size" and limited)


def _same(there: Any, here: Any) -> bool:
    """Whether two values mean the same: a folder may be spelled in several ways."""
    if isinstance(there, str) and isinstance(here, str):
        return there == here or os.path.realpath(there) == os.path.realpath(here)
    return there == here


def under(key: str, names: tuple[str, ...]) -> bool:
    """Whether a dotted key is one of the names, or lies in a section of that name."""
    return any(key == name or key.startswith(name + ".") for name in names)


def _rank(key: str) -> tuple[int, str]:
    """Keys in the order in which they matter."""
    groups = (KEYS_OF_TRAINING, KEYS_OF_PLAN, KEYS_OF_EVERYTHING)
    return next((-i for i, names in enumerate(groups) if under(key, names)), 1), key
