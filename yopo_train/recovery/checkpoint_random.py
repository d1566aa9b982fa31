"""This process's random state: read, set, and as a checkpoint keeps it."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

RandomState = dict[str, Any]


def random_state(device: torch.device) -> RandomState:
    """The state of Python's, NumPy's and torch's generators, and of the device's own."""
    state = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: RandomState, device: torch.device) -> None:
    """Go on from a state that `random_state` gave."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def packed(state: RandomState) -> dict[str, Any]:
    """A state as numbers, texts and tensors only, so that a checkpoint with it loads with ``weights_only``."""
    version, words, gauss = state["python"]
    name, keys, place, has_gauss, cached = state["numpy"]
    tensors = {key: value for key, value in state.items() if key not in ("python", "numpy")}
    return tensors | {
        "python": [version, _to_tensor(np.array(words, dtype=np.uint32)), gauss],
        "numpy": [name, _to_tensor(keys), int(place), int(has_gauss), float(cached)],
    }


def unpacked(state: dict[str, Any]) -> RandomState:
    """What `packed` was given."""
    version, words, gauss = state["python"]
    name, keys, *rest = state["numpy"]
    return state | {
        "python": (version, tuple(_to_words(words).tolist()), gauss),
        "numpy": (name, _to_words(keys), *rest),
    }


def _to_tensor(words: np.ndarray) -> Tensor:
    return torch.from_numpy(words.view(np.int32).copy())


def _to_words(tensor: Tensor) -> np.ndarray:
    return tensor.numpy().view(np.uint32)
