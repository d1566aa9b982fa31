"""FLOPs counted on what really ran, by ``torch.utils.flop_counter``; beside them stand the formulas of ``cost.py``.

Linear layers are counted alike everywhere. Attention is counted in one of two ways:

=========  ============================================================================================================
attended   pairs of query and key that the call's mask lets through: the convention of ``cost.prefill_flops``, so that
           formula and count can be compared. Needs inference mode, in which the attention call arrives in one piece.
computed   all pairs of every kernel call, as PyTorch's counter has it: masked ones count too (the upper triangle of
           causal attention, the corners of a window's blocks), although a kernel may skip them. The only one that also
           counts the backward pass.
=========  ============================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten
Pairs = Literal["attended", "computed"]


def counted_flops(run: Callable[[], Any], pairs: Pairs) -> int:
    """FLOPs of ``run()``; see the module's text for ``pairs``."""
    mapping = {"attended": _ATTENDED, "computed": _COMPUTED}[pairs]
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        run()
    return counter.get_total_flops()


def _raw(function: Callable[..., int]) -> Callable[..., int]:
    """For FlopCounterMode: the formula wants the tensors, not their shapes."""
    function._get_raw = True
    return function


@_raw
def _attended(
    query: Tensor, key: Tensor, value: Tensor, attn_mask=None, dropout_p=0.0, is_causal=False, **kwargs
) -> int:
    (*rows, queries, width), keys = query.shape, key.shape[-2]
    if attn_mask is not None:
        seen = attn_mask if attn_mask.dtype == torch.bool else attn_mask > torch.finfo(attn_mask.dtype).min / 2
        pairs = int(seen.expand(*rows, queries, keys).sum())
    else:
        each = sum(min(i + 1, keys) for i in range(queries)) if is_causal else queries * keys
        pairs = rows[0] * rows[1] * each
    return 4 * width * pairs


@_raw
def _cpu_forward(query: Tensor, key: Tensor, *args, **kwargs) -> int:
    return 4 * query.numel() * key.shape[-2]


@_raw
def _cpu_backward(grad_out: Tensor, query: Tensor, key: Tensor, *args, **kwargs) -> int:
    return 10 * query.numel() * key.shape[-2]  # five products, as PyTorch counts the kernels of a GPU


_ATTENDED = {  # the first key is looked up to count a call, the second to not take it apart
    aten.scaled_dot_product_attention: _attended,
    aten.scaled_dot_product_attention.default: _attended,
}
_COMPUTED = {  # PyTorch's own table lacks the CPU's kernel
    aten._scaled_dot_product_flash_attention_for_cpu: _cpu_forward,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _cpu_backward,
}
