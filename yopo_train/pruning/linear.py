"""One linear layer for two kinds of tokens: two plain matrix products, and views instead of copies.

*Rows*: visual tokens need the first ``k`` outputs, text tokens all of them (q, k, v, gate, up).
*Columns*: visual tokens have the first ``k`` inputs, text tokens all of them (o, down).

Where there are no visual tokens the layer is called as it is. So are the layers of a fixed block (see ``order``), with
all tokens: their outputs are picked, and their inputs filled with zeros, which is as right and as slow as it sounds.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..errors import UserError


def split_rows(
    module: nn.Module, x: Tensor, n_visual: int, k: int, pick: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Outputs ``[:k]`` of all packed tokens and outputs ``[k:]`` of the text tokens.

    Parameters
    ----------
    module : nn.Module
        ``nn.Linear`` or a peft LoRA layer around one, its rows in the pruned order; any linear layer with ``pick``.
    x : Tensor
        ``(visual + text, in_features)``.
    pick : Tensor, optional
        ``(out_features,)`` the pruned order of the outputs of a layer that stands in the base model's order.

    Returns
    -------
    (Tensor, Tensor)
        ``(visual + text, k)`` and ``(text, out_features - k)``.
    """
    text = x[n_visual:]
    if k == 0:
        rest = ordered(module(text), pick)
        return rest.new_empty(len(x), 0), rest
    if n_visual == 0 or pick is not None:
        out = ordered(module(x), pick)
        return out[:, :k], out[n_visual:, k:]
    weight, bias, adapters = _parts(module)
    if k == weight.shape[0]:
        return module(x), x.new_empty(len(text), 0)
    shared = F.linear(x, weight[:k], None if bias is None else bias[:k])
    rest = F.linear(text, weight[k:], None if bias is None else bias[k:])
    for adapter in adapters:
        low = adapter.scaling * F.linear(adapter.inputs(x), adapter.a)
        shared = shared + adapter.outputs(low, slice(None, k)).to(shared.dtype)
        rest = rest + adapter.outputs(low[n_visual:], slice(k, None)).to(rest.dtype)
    return shared, rest


def split_columns(
    module: nn.Module, shared: Tensor, rest: Tensor, n_visual: int, put_back: Tensor | None = None
) -> Tensor:
    """The output for inputs that came out of :func:`split_rows`.

    Parameters
    ----------
    shared : Tensor
        ``(visual + text, k)`` first inputs of all packed tokens.
    rest : Tensor
        ``(text, in_features - k)`` the other inputs of the text tokens.
    put_back : Tensor, optional
        ``(in_features,)`` the base model's order of the inputs, for a layer that stands in it.

    Returns
    -------
    Tensor
        ``(visual + text, out_features)``.
    """
    if n_visual == 0 or rest.shape[1] == 0 or put_back is not None:
        return module(ordered(_side_by_side(shared, rest, n_visual), put_back))
    weight, bias, adapters = _parts(module)
    out = _product(shared, rest, weight, n_visual, bias)
    for adapter in adapters:
        low = _product(adapter.inputs(shared), adapter.inputs(rest), adapter.a, n_visual)
        out = out + adapter.outputs(adapter.scaling * low, slice(None)).to(out.dtype)
    return out


def ordered(x: Tensor, index: Tensor | None) -> Tensor:
    """Columns by index, all as they are for None."""
    return x if index is None else x.index_select(1, index)


def _side_by_side(shared: Tensor, rest: Tensor, n_visual: int) -> Tensor:
    """``(visual + text, in_features)``, zeros where visual tokens have no input."""
    if rest.shape[1] == 0:
        return shared
    if n_visual:
        rest = F.pad(rest, (0, 0, n_visual, 0))
    return torch.cat((shared, rest), 1) if shared.shape[1] else rest


def _product(shared: Tensor, rest: Tensor, weight: Tensor, n_visual: int, bias: Tensor | None = None) -> Tensor:
    k = shared.shape[1]
    out = F.linear(shared, weight[:, :k], bias)
    out[n_visual:] += F.linear(rest, weight[:, k:])
    return out


class _Adapter:
    """One active LoRA adapter of a linear layer."""

    def __init__(self, layer: nn.Module, name: str):
        up = layer.lora_B[name]
        self.a, self.b, self.bias = layer.lora_A[name].weight, up.weight, up.bias
        self.scaling, self.dropout = layer.scaling[name], layer.lora_dropout[name]

    def inputs(self, x: Tensor) -> Tensor:
        return self.dropout(x.to(self.a.dtype))

    def outputs(self, low: Tensor, rows: slice) -> Tensor:
        """Some outputs of the second factor; ``low`` is scaled already, its bias is not."""
        return F.linear(low, self.b[rows], None if self.bias is None else self.scaling * self.bias[rows])


def _parts(module: nn.Module) -> tuple[Tensor, Tensor | None, list[_Adapter]]:
    """Weight, bias and the active LoRA adapters of a linear layer."""
    if type(module) is nn.Linear and not module.weight.is_meta:
        return module.weight, module.bias, []
    if reason := unsliceable(module):
        raise UserError(f"a layer of a pruned model cannot be sliced any more ({reason}): do that first, then prune")
    base = module.get_base_layer()
    if module.disable_adapters and module.merged:
        module.unmerge()  # as peft does where the layer is called
    if module.disable_adapters or module.merged:
        return base.weight, base.bias, []
    names = [name for name in module.active_adapters if name in module.lora_A]
    return base.weight, base.bias, [_Adapter(module, name) for name in names]


def unsliceable(module: nn.Module) -> str | None:
    """Why views of a linear layer's weights cannot be multiplied with, or None where they can."""
    base = getattr(module, "base_layer", module)
    if type(base) is not nn.Linear or (base is not module and not hasattr(module, "lora_A")):
        odd = base if type(base) is not nn.Linear else module
        return f"a {type(odd).__module__}.{type(odd).__qualname__}"
    if base.weight.is_meta:
        return "its weights are offloaded"
    if type(base.weight) is not nn.Parameter and not isinstance(base.weight, DTensor):
        return f"its weight is a {type(base.weight).__name__}"
    if variants := {type(variant).__name__ for variant in getattr(module, "lora_variant", {}).values()}:
        return f"LoRA variants: {', '.join(sorted(variants))}"
    return None


def refuse_token_mixing(module: nn.Module, name: str) -> None:
    """Raise a ``UserError`` for a linear layer that looks at where in its sequence a token is."""
    if any(type(variant).__name__.startswith("ALora") for variant in getattr(module, "lora_variant", {}).values()):
        raise UserError(f"layer {name} cannot be pruned: activated LoRA looks for its trigger in whole sequences")
