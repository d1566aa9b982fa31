"""Bytes, counted from the tensors that are there: weights, KV cache, and the peak of a run."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def weight_bytes(model: nn.Module) -> int:
    """Parameters and buffers."""
    return _storage_bytes(_weights(model))


def cache_bytes(cache: Any) -> int:
    """Keys and values of a ``transformers`` cache, of the stock model or of a pruned one."""
    return _storage_bytes(x for layer in cache.layers for x in vars(layer).values() if isinstance(x, Tensor))


def peak_bytes(model: nn.Module, inputs: Iterable[Tensor], run: Callable[[], Any]) -> int:
    """Most bytes alive at once during ``run()``, weights and inputs included.

    On a GPU what PyTorch's allocator says. On the CPU, which has no such account, the storages of all tensors that
    operations return, as long as they live; what a kernel allocates and frees inside itself is not seen there.
    """
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device)
    with LiveBytes([*_weights(model), *inputs]) as live:
        run()
    return live.peak


class LiveBytes(TorchDispatchMode):
    """Counts the storages alive: those given, and all that operations return inside this context.

    Attributes
    ----------
    now, peak : int
        Bytes alive, and the most there were.
    """

    def __init__(self, tensors: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref] = {}
        for tensor in tensors:
            self._add(tensor)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._alive:
            self._alive[key] = weakref.ref(storage, lambda _: self._drop(key, size))
            self.now += size
            self.peak = max(self.peak, self.now)

    def _drop(self, key: int, size: int) -> None:
        self.now -= size
        del self._alive[key]


def _weights(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _storage_bytes(tensors: Iterable[Tensor]) -> int:
    """What the tensors keep alive: whole storages, each once."""
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())
