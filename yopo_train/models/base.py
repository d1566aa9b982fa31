"""What a model family has to answer so that the engine can prune it.

A new family is one file in this folder: subclass :class:`Family`, fill in the methods, register it in
``models/__init__.py``, and add one tiny fixture to the tests' matrix.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..cost import Grid
from ..errors import UserError
from ..plan import ModelDims

PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}
"""Modalities, and the input that brings each."""


class Family(ABC):
    """Where a model family keeps its parts, and where in a prompt its visual tokens are.

    The methods below fit every ``transformers`` 5 multimodal model whose text model has ``layers[i].self_attn`` with
    ``q_proj/k_proj/v_proj/o_proj`` and ``layers[i].mlp`` with ``gate_proj/up_proj/down_proj``; a subclass overrides
    what differs and must write :meth:`grids`.
    """

    model_types: tuple[str, ...] = ()
    text_types: tuple[str, ...] = ("llama", "mistral", "qwen2", "qwen3")
    """Text models whose decoder layers the engine knows: RMS norm, ``rotary.py``, gated FFN, nothing else."""

    # -- where the parts are ------------------------------------------------------------------------------------
    def core(self, model: nn.Module) -> nn.Module:
        """The module that merges visual features into the embeddings and calls the text model."""
        return model.model

    def text_model(self, model: nn.Module) -> nn.Module:
        """The language model without its head: it has ``layers``, ``norm`` and ``rotary_emb``."""
        return self.core(model).language_model

    def vision_tower(self, core: nn.Module) -> nn.Module:
        """What turns pixels into features; it may hold the projector."""
        return core.vision_tower

    def projectors(self, core: nn.Module) -> list[nn.Module]:
        """What turns features into visual tokens."""
        return [core.multi_modal_projector]

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
    def placeholders(self, config: Any) -> dict[str, int]:
        """Ids of the placeholders that visual tokens take in ``input_ids``, by modality (see `PIXELS`)."""
        return {"image": config.image_token_id}

    def modalities(self, inputs: Mapping[str, Any]) -> list[str]:
        """Which modalities this forward pass brings visual features of."""
        # transformers' `generate` hands over an empty mapping where there is no image
        encoded = inputs.get("mm_encoder_outputs") or {}
        return [
            name for name, pixels in PIXELS.items() if inputs.get(pixels) is not None or encoded.get(name) is not None
        ]

    def has_images(self, inputs: Mapping[str, Any]) -> bool:
        """Whether this forward pass brings any visual features."""
        return bool(self.modalities(inputs))

    def visual_mask(self, config: Any, inputs: Mapping[str, Any]) -> Tensor:
        """Which positions are visual tokens: bool ``(batch, tokens)``.

        A placeholder id without features of its modality is an ordinary token.
        """
        ids = inputs["input_ids"]
        mask = torch.zeros_like(ids, dtype=torch.bool)
        present = self.modalities(inputs)
        for modality, placeholder in self.placeholders(config).items():
            if modality in present:
                mask |= ids == placeholder
        return mask

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

    described_by: Mapping[str, tuple[str, ...]] = {}
    """By modality, the inputs with one row an image (or video) that :meth:`image_grids` reads. They are arguments of
    ``get_image_features`` (``get_video_features``), too: ``generate`` encodes images before its first forward pass and
    hands on nothing but the features, so the engine keeps these rows with them."""

    def grids(self, config: Any, visual: Tensor, inputs: Mapping[str, Any]) -> list[list[Grid]]:
        """The grids of each sample's images, in the order in which their tokens stand.

        Parameters
        ----------
        visual : Tensor
            Which positions are visual tokens, padding left out: bool ``(batch, tokens)``.
        inputs : mapping
            The model's inputs (``input_ids``, image sizes, ...).

        Raises
        ------
        UserError
            When a sample's visual tokens do not fill whole grids.
        """
        present = self.modalities(inputs)
        waiting = {
            placeholder: [grid for grids in self.image_grids(config, inputs, modality) for grid in grids][::-1]
            for modality, placeholder in self.placeholders(config).items()
            if modality in present
        }
        return [
            _fill(ids[mask].tolist(), waiting, sample)
            for sample, (ids, mask) in enumerate(zip(inputs["input_ids"], visual, strict=True))
        ]

    def image_grids(self, config: Any, inputs: Mapping[str, Any], modality: str) -> list[list[Grid]]:
        """The grids of each image (or video) of the batch, one after the other; several where it is cut into tiles.

        Only :meth:`grids` asks: a family whose images all have the same grid overrides that instead (`fixed_grid`).
        """
        raise NotImplementedError(f"{type(self).__name__} has neither image_grids nor grids of its own")

    # -- a random image, for bench -------------------------------------------------------------------------------
    def typical_tokens(self, config: Any) -> int:
        """Visual tokens of the image that bench takes unless told otherwise."""
        return 576

    @abstractmethod
    def shape_image(self, config: Any, visual_tokens: int) -> list[Grid]:
        """The grids of an image of so many visual tokens, as square as can be.

        Where the image's size belongs to the model, it is set in the config, in place.

        Raises
        ------
        UserError
            No image has so many; names ``--visual-tokens``.
        """

    @abstractmethod
    def random_images(self, config: Any, ids: Tensor, grids: list[Grid]) -> dict[str, Tensor]:
        """All inputs that belong to one such image a sample, random, in float32.

        Parameters
        ----------
        ids : Tensor
            ``input_ids`` ``(batch, tokens)``, the placeholders of one image in each sample.
        grids : list of Grid
            From :meth:`shape_image`.
        """


def _fill(tokens: list[int], waiting: Mapping[int, list[Grid]], sample: int) -> list[Grid]:
    """The next grids that the visual tokens of a sample fill, taken off the ends of the lists of their modality."""
    taken, start = [], 0
    while start < len(tokens):
        grids = waiting[tokens[start]]
        size = math.prod(grids[-1]) if grids else 0
        if not grids or tokens[start : start + size] != [tokens[start]] * size:
            what = f"expected {size} for the next image" if grids else "but the images of the batch fill fewer"
            raise UserError(f"sample {sample} of the batch holds {len(tokens) - start} more visual tokens, {what}")
        taken.append(grids.pop())
        start += size
    return taken


def fixed_grid(visual: Tensor, grid: Grid, source: str) -> list[list[Grid]]:
    """Grids of models in which every image has the same number of tokens; ``visual`` is that of `Family.grids`."""
    size, counts = grid[0] * grid[1] * grid[2], visual.sum(1).tolist()
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
