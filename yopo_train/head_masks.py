"""Head masks as YOPO's authors keep them: one array ``(layers, heads)`` in a file, 1 for active, 0 for pruned.

Their mask scripts write ``.npy``, their evaluation reads ``.pth`` too. A mask says nothing of channels, depth or
radius: it is one part of a plan.
"""

import io
import pickle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from yopo_train.errors import UserError, first_line
from yopo_train.plan import ModelDims, PruningPlan
from yopo_train.run_folder import write_bytes

SUFFIXES = (".npy", ".pth", ".pt")


def read_head_mask(path: str | Path, dims: ModelDims) -> Tensor:
    """Active heads, bool ``(layers, heads)``; no code in the file is run.

    Raises
    ------
    UserError
        No such file, not a mask, one of another shape, or values besides 0 and 1.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file, expected a head mask ({', '.join(SUFFIXES)})")
    try:
        values = _load(path)
    except (OSError, EOFError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
        reason = first_line(error)
        raise UserError(f"{path}: not readable as a head mask (.npy, or a tensor in .pt or .pth): {reason}") from None
    expected = (dims.layers, dims.heads)
    if tuple(values.shape) != expected:
        raise UserError(f"{path}: the head mask has shape {tuple(values.shape)}, expected {expected} (layers, heads)")
    if not ((values == 0) | (values == 1)).all():
        raise UserError(f"{path}: the head mask has values besides 0 (pruned) and 1 (active)")
    return values != 0


def write_head_mask(path: str | Path, plan: PruningPlan) -> None:
    """Write a plan's heads as the authors' code reads them: float32 0 and 1, ``(layers, heads)``; 0 from its depth on.

    Raises
    ------
    UserError
        Another file type, or the file is there already or cannot be written.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: a head mask is a file of the type {', '.join(SUFFIXES)}")
    if path.exists():
        raise UserError(f"{path}: there is such a file already, expected a new name")
    values, content = plan.heads.float(), io.BytesIO()
    if path.suffix == ".npy":
        np.save(content, values.numpy(), allow_pickle=False)
    else:
        torch.save(values, content)
    write_bytes(path, content.getvalue())


def _load(path: Path) -> Tensor:
    if path.suffix != ".npy":
        values = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(values, Tensor):
            raise ValueError(f"it holds {type(values).__name__}, no tensor")
        return values
    values = np.load(path, allow_pickle=False)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        raise ValueError("it holds no array of numbers")
    return torch.from_numpy(values.astype(np.float32))
