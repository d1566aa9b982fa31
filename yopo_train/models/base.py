"""What a model family has to answer so that the engine can prune it.

A new family is one file in this folder: subclass :class:`Family`, fill in the methods, register it in
``models/__init__.py``, and add one tiny fixture to the tests' matrix.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..cost import Grid
from ..errors import UserError
from ..plan import ModelDims


class Family(ABC):
    """Where a model family keeps its parts, and where in a prompt its visual tokens are.

    The methods below fit every ``transformers`` 5 multimodal model whose text model has ``layers[i].self_attn`` with
    ``q_proj/k_proj/v_proj/o_proj`` and ``layers[i].mlp`` with ``gate_proj/up_proj/down_proj``; a subclass overrides
    what differs and must write :meth:`grids`.
    """

    model_types: tuple[str, ...] = ()
    text_types: tuple[str, ...] = ("llama", "mistral", "qwen2")
    """Text models whose decoder layers the engine knows: RMS norm, rotary half-split, gated FFN, nothing else."""

    # -- where the parts are ------------------------------------------------------------------------------------
    def core(self, model: nn.Module) -> nn.Module:
        """The module that merges visual features into the embeddings and calls the text model."""
        return model.model

    def text_model(self, model: nn.Module) -> nn.Module:
        """The language model without its head: it has ``layers``, ``norm`` and ``rotary_emb``."""
        return self.core(model).language_model

    def dims(self, config: Any) -> ModelDims:
        """Dimensions of the language model that a plan has to match."""
        text = config.get_text_config()
        heads = text.num_attention_heads
        return ModelDims(
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            intermediate=text.intermediate_size,
            heads=heads,
            kv_heads=getattr(text, "num_key_value_heads", None) or heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        )

    def lora_targets(self) -> str:
        """Regular expression (peft ``target_modules``) of the language model's linear layers, and of nothing else."""
        return r".*language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"

    def check_text_model(self, config: Any) -> None:
        """Raise a ``UserError`` for a text model whose layers compute something that the engine does not."""
        text = config.get_text_config()
        if text.model_type not in self.text_types:
            raise UserError(
                f"text model {text.model_type!r} cannot be pruned, expected one of: {', '.join(self.text_types)}"
            )
        kinds = getattr(text, "layer_types", None)  # a text model without them slides in every layer, or in none
        slides = "sliding_attention" in kinds if kinds else getattr(text, "sliding_window", None) is not None
        if slides:
            raise UserError("a text model with sliding-window attention cannot be pruned, expected full attention")
        if getattr(text, "attention_dropout", 0.0):
            raise UserError(f"attention_dropout is {text.attention_dropout}, but a pruned model has none: expected 0")

    # -- where the visual tokens are -----------------------------------------------------------------------------
    def image_token_id(self, config: Any) -> int:
        """Id of the placeholder that a visual token takes in ``input_ids``."""
        return config.image_token_id

    def visual_mask(self, config: Any, input_ids: Tensor) -> Tensor:
        """Which positions are visual tokens: bool ``(batch, tokens)``."""
        return input_ids == self.image_token_id(config)

    def has_images(self, inputs: Mapping[str, Any]) -> bool:
        """Whether this forward pass brings visual features; a placeholder id without any is an ordinary token."""
        # transformers' `generate` hands over an empty mapping where there is no image
        encoded = inputs.get("mm_encoder_outputs") or {}
        return inputs.get("pixel_values") is not None or encoded.get("image") is not None

    def unread_vision_layers(self, core: nn.Module, arguments: Mapping[str, Any]) -> list[nn.Module]:
        """Layers of the vision tower behind the one whose output the projector reads.

        Parameters
        ----------
        core : nn.Module
            What :meth:`core` returns.
        arguments : mapping
            Of the call of its ``get_image_features``.
        """
        return []

    @abstractmethod
    def grids(self, config: Any, counts: list[int], inputs: Mapping[str, Any]) -> list[list[Grid]]:
        """The grids of each sample's images, in the order in which their tokens stand.

        Parameters
        ----------
        counts : list of int
            Number of visual tokens of each sample.
        inputs : mapping
            The model's inputs (``pixel_values``, image sizes, ...).

        Raises
        ------
        UserError
            When a sample's visual tokens do not fill whole grids.
        """


def fixed_grid(counts: list[int], grid: Grid, source: str) -> list[list[Grid]]:
    """Grids of models in which every image has the same number of tokens."""
    size = grid[0] * grid[1] * grid[2]
    for sample, count in enumerate(counts):
        if count % size:
            raise UserError(
                f"sample {sample} of the batch holds {count} visual tokens, expected a multiple of {size} ({source})"
            )
    return [[grid] * (count // size) for count in counts]


NOT_INPUTS = ("labels", "meta")
"""Keys of a batch that a model is not called with."""


def model_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What of a batch the model is called with."""
    return {name: value for name, value in batch.items() if name not in NOT_INPUTS}


def unwrap(model: nn.Module) -> nn.Module:
    """The ``transformers`` model inside DDP's or peft's wrapper, or the model itself."""
    model = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding in the half-split layout of Llama.

    ``x`` is ``(tokens, heads, head_dim)``, ``cos`` and ``sin`` are ``(tokens, rotary_dim)``.
    """
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
