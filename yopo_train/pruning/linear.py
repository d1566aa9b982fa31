"""One linear layer for two kinds of tokens: two plain matrix products, and views instead of copies.

*Rows*: visual tokens need the first ``k`` outputs, text tokens all of them (q, k, v, gate, up).
*Columns*: visual tokens have the first ``k`` inputs, text tokens all of them (o, down).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError


def split_rows(module: nn.Module, x: Tensor, n_visual: int, k: int) -> tuple[Tensor, Tensor]:
    """Outputs ``[:k]`` of all packed tokens and outputs ``[k:]`` of the text tokens.

    Parameters
    ----------
    module : nn.Module
        ``nn.Linear`` or a peft LoRA layer around one, its rows in the pruned order.
    x : Tensor
        ``(visual + text, in_features)``.

    Returns
    -------
    (Tensor, Tensor)
        ``(visual + text, k)`` and ``(text, out_features - k)``.
    """
    text = x[n_visual:]
    if k == 0 and n_visual == 0:
        return x.new_empty(len(x), 0), module(x)
    weight, bias, adapters = _parts(module)
    if k == weight.shape[0]:
        return module(x), x.new_empty(len(text), 0)
    shared = F.linear(x, weight[:k], None if bias is None else bias[:k])
    rest = F.linear(text, weight[k:], None if bias is None else bias[k:])
    for adapter in adapters:
        low = adapter.scaling * F.linear(adapter.inputs(x), adapter.a)
        shared = shared + F.linear(low, adapter.b[:k]).to(shared.dtype)
        rest = rest + F.linear(low[n_visual:], adapter.b[k:]).to(rest.dtype)
    return shared, rest


def split_columns(module: nn.Module, shared: Tensor, rest: Tensor, n_visual: int) -> Tensor:
    """The output for inputs that came out of :func:`split_rows`.

    Parameters
    ----------
    shared : Tensor
        ``(visual + text, k)`` first inputs of all packed tokens.
    rest : Tensor
        ``(text, in_features - k)`` the other inputs of the text tokens.

    Returns
    -------
    Tensor
        ``(visual + text, out_features)``.
    """
    if rest.shape[1] == 0:
        return module(shared)
    if shared.shape[1] == 0 and n_visual == 0:
        return module(rest)
    weight, bias, adapters = _parts(module)
    out = _product(shared, rest, weight, n_visual, bias)
    for adapter in adapters:
        low = _product(adapter.inputs(shared), adapter.inputs(rest), adapter.a, n_visual)
        out = out + F.linear(adapter.scaling * low, adapter.b).to(out.dtype)
    return out


def _product(shared: Tensor, rest: Tensor, weight: Tensor, n_visual: int, bias: Tensor | None = None) -> Tensor:
    k = shared.shape[1]
    out = F.linear(shared, weight[:, :k], bias)
    out[n_visual:] += F.linear(rest, weight[:, k:])
    return out


class _Adapter:
    """One active LoRA adapter of a linear layer."""

    def __init__(self, layer: nn.Module, name: str):
        self.a, self.b = layer.lora_A[name].weight, layer.lora_B[name].weight
        self.scaling, self.dropout = layer.scaling[name], layer.lora_dropout[name]

    def inputs(self, x: Tensor) -> Tensor:
        return self.dropout(x.to(self.a.dtype))


def _parts(module: nn.Module) -> tuple[Tensor, Tensor | None, list[_Adapter]]:
    """Weight, bias and the active LoRA adapters of a linear layer."""
    if type(module) is nn.Linear:
        return module.weight, module.bias, []
    if reason := unsupported(module):  # adapters may have come after the plan
        raise UserError(f"a linear layer cannot be pruned: {reason}")
    base = module.get_base_layer()
    if module.disable_adapters or module.merged:
        return base.weight, base.bias, []
    names = [name for name in module.active_adapters if name in module.lora_A]
    return base.weight, base.bias, [_Adapter(module, name) for name in names]


def unsupported(module: nn.Module) -> str | None:
    """Why a linear layer cannot be sliced, or None where it can."""
    if type(module) is nn.Linear:
        return None
    base = getattr(module, "base_layer", None)
    if not hasattr(module, "lora_A") or type(base) is not nn.Linear:
        return f"a {type(module).__name__} layer is not a plain nn.Linear, with or without peft LoRA around it"
    if getattr(module, "lora_variant", {}) or any(getattr(module, "lora_bias", {}).values()):
        return "LoRA variants (DoRA and others) and LoRA biases cannot be sliced"
    return None
