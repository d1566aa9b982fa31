"""Active first: the order in which a pruned layer keeps its heads and channels.

Rows of q/k/v/gate/up and columns of o/down are permuted so that what visual tokens need is a prefix of each weight.
The layer computes the same function. LoRA factors are permuted alike (rows of B, columns of A), and state dicts are
translated on their way in and out, so that whatever is saved or loaded stands in the base model's own order.

A block (self_attn, mlp) with a linear layer whose weights cannot be moved or sliced, a quantized one for example, is
*fixed*: it keeps the base model's order, and its activations are picked by index instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.hooks import RemovableHandle

from ..plan import PruningPlan

HEADS, KV_HEADS, CHANNELS = "heads", "kv_heads", "channels"
OUTPUT_ORDER = {"q_proj": HEADS, "k_proj": KV_HEADS, "v_proj": KV_HEADS, "gate_proj": CHANNELS, "up_proj": CHANNELS}
INPUT_ORDER = {"o_proj": HEADS, "down_proj": CHANNELS}
BLOCKS = {"self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"), "mlp": ("gate_proj", "up_proj", "down_proj")}
BLOCK_OF = {HEADS: "self_attn", KV_HEADS: "self_attn", CHANNELS: "mlp"}


def active_first(mask: Tensor) -> Tensor:
    """Indices with the True entries first, each part in ascending order."""
    return torch.argsort(~mask, stable=True)


@dataclass(frozen=True)
class LayerOrder:
    """New-to-old index of one layer's heads, KV heads and channels, and how many of each are active.

    Attributes
    ----------
    kv_of_head : Tensor
        ``(heads,)`` place of the KV head that each query head reads, both in the new order.
    rows, places : dict
        Per kind, the new-to-old index of the weights' rows (heads expanded to their ``head_dim`` rows), and the
        old-to-new one.
    fixed : frozenset
        Blocks whose weights stand in the base model's order.
    """

    active_heads: int
    active_kv_heads: int
    active_channels: int
    kv_of_head: Tensor
    rows: dict[str, Tensor]
    places: dict[str, Tensor]
    fixed: frozenset[str] = frozenset()

    @classmethod
    def of_plan(cls, plan: PruningPlan, layer: int, fixed: frozenset[str] = frozenset()) -> LayerOrder:
        """The order of one layer below the visual depth."""
        dims = plan.dims
        group = dims.heads // dims.kv_heads
        needed = plan.kv_heads_needed(layer)
        heads, kv_heads = active_first(plan.heads[layer]), active_first(needed)
        place_of_kv = kv_heads.argsort()
        rows = {
            HEADS: _expand(heads, dims.head_dim),
            KV_HEADS: _expand(kv_heads, dims.head_dim),
            CHANNELS: active_first(plan.channels[layer]),
        }
        return cls(
            active_heads=int(plan.heads[layer].sum()),
            active_kv_heads=int(needed.sum()),
            active_channels=int(plan.channels[layer].sum()),
            kv_of_head=place_of_kv[heads // group],
            rows=rows,
            places={kind: index.argsort() for kind, index in rows.items()},
            fixed=fixed,
        )

    def to(self, device: torch.device) -> LayerOrder:
        """The same order on another device."""
        moved = {
            name: {kind: index.to(device) for kind, index in getattr(self, name).items()} for name in ("rows", "places")
        }
        return replace(self, kv_of_head=self.kv_of_head.to(device), **moved)

    def pick(self, kind: str) -> Tensor | None:
        """``(rows,)`` outputs of a fixed block's linear layer in the new order, None where the weights are in it."""
        return self.rows[kind] if BLOCK_OF[kind] in self.fixed else None

    def put_back(self, kind: str) -> Tensor | None:
        """``(rows,)`` inputs of a fixed block's linear layer in the base order, None where the weights are permuted."""
        return self.places[kind] if BLOCK_OF[kind] in self.fixed else None


def permute_layer(layer: nn.Module, order: LayerOrder, inverse: bool = False) -> None:
    """Reorder a decoder layer's weights and gradients in place; ``inverse`` restores them bit for bit."""
    with torch.no_grad():
        for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
            for part in (tensor, tensor.grad):
                permuted = part if part is None else _permuted(name, part, order, inverse)
                if permuted is not part:
                    part.copy_(permuted)


def translate_state_dicts(layer: nn.Module, order: LayerOrder) -> list[RemovableHandle]:
    """Hooks that turn what the layer saves into the base model's order, and what it loads into the pruned one."""
    return [
        layer.register_state_dict_post_hook(partial(_translate_saved, order)),
        layer.register_load_state_dict_pre_hook(partial(_translate_loaded, order)),
    ]


def _translate_saved(order: LayerOrder, module: nn.Module, state_dict, prefix: str, local_metadata) -> None:
    translate(order, state_dict, prefix, inverse=True)


def _translate_loaded(order: LayerOrder, module: nn.Module, state_dict, prefix: str, *args) -> None:
    translate(order, state_dict, prefix, inverse=False)


def translate(order: LayerOrder, state_dict: dict[str, Tensor], prefix: str, inverse: bool) -> None:
    """Reorder, in the dictionary, a layer's tensors, whose names begin with the prefix."""
    for key in [key for key in state_dict if key.startswith(prefix)]:
        state_dict[key] = _permuted(key[len(prefix) :], state_dict[key], order, inverse)


def _permuted(name: str, tensor: Tensor, order: LayerOrder, inverse: bool) -> Tensor:
    """A decoder layer's tensor with its permuted dimension reordered, or the tensor itself where there is none."""
    place = _permuted_dim(name, tensor)
    if place is None:
        return tensor
    dim, kind = place
    index = (order.places if inverse else order.rows)[kind].to(tensor.device)
    if BLOCK_OF[kind] in order.fixed or tensor.shape[dim] != len(index):
        return tensor  # of another size: load_state_dict will say so in its own words
    if isinstance(tensor, DTensor):  # FSDP2: a shard holds rows of the old order
        whole = tensor.full_tensor().index_select(dim, index)
        return distribute_tensor(whole, tensor.device_mesh, tensor.placements)
    return tensor.index_select(dim, index)


def _permuted_dim(name: str, tensor: Tensor) -> tuple[int, str] | None:
    """Which dimension of a parameter follows which order: LoRA's A has no output rows, its B no input columns."""
    block, _, rest = name.partition(".")
    projection, _, leaf = rest.partition(".")
    if block not in BLOCKS:
        return None
    if projection in OUTPUT_ORDER and not leaf.startswith("lora_A."):
        return 0, OUTPUT_ORDER[projection]
    if projection in INPUT_ORDER and not leaf.startswith("lora_B.") and tensor.dim() == 2:
        return 1, INPUT_ORDER[projection]
    return None


def _expand(heads: Tensor, head_dim: int) -> Tensor:
    """Rows that belong to the heads: ``(heads,)`` to ``(heads * head_dim,)``."""
    return (heads[:, None] * head_dim + torch.arange(head_dim)).flatten()
