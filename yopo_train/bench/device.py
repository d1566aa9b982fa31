"""What a measurement ran on, and where to run one."""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import UserError


def device_name(device: torch.device) -> str:
    """The processor's or GPU's name, for people."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return names[0] if names else device.type


def pick_device(wanted: str | None) -> torch.device:
    """The device of ``--device``; None takes a GPU where there is one.

    Raises
    ------
    UserError
        No such device here.
    """
    gpus = torch.cuda.device_count()
    if wanted is None:
        return torch.device("cuda" if gpus else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--device is {wanted!r}, expected cpu, cuda or cuda:NUMBER")
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise UserError(f"--device is {wanted}, but there {'is no GPU' if not gpus else f'are only {gpus} GPUs'}")
    return device


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free there; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = [line.split() for line in _lines("/proc/meminfo") if line.startswith("MemAvailable")]
    return 1024 * int(lines[0][1]) if lines else None


def _lines(file: str) -> list[str]:
    path = Path(file)
    return path.read_text().splitlines() if path.exists() else []
