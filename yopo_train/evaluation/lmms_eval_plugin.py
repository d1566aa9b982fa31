"""What lmms-eval finds of us: the entry point of the group ``lmms_eval.models`` in pyproject.toml.

lmms-eval only logs a warning where an entry point cannot be loaded, and the model is then not there: nothing here may
fail that need not.
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """The manifest of the model ``yopo``; lmms-eval calls this when it collects its models."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="yopo", chat_class_path="yopo_train.evaluation.lmms_eval_model.YopoChat")
