"""What a run was measured on."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from yopo_train.bench import device_name

PACKAGES = ("yopo-train", "torch", "transformers", "lightning", "peft")


def describe_environment() -> dict[str, str]:
    """``hardware`` and ``versions``, one line each."""
    return {"hardware": _hardware(), "versions": ", ".join([f"Python {platform.python_version()}", *_versions()])}


def _hardware() -> str:
    cpu = f"{device_name(torch.device('cpu'))}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    gpus = [device_name(torch.device("cuda", number)) for number in range(torch.cuda.device_count())]
    return "; ".join([cpu, *(f"{gpus.count(name)} x {name}" for name in sorted(set(gpus)))])


def _versions() -> list[str]:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:  # run from a checkout, not installed
            continue
    return found
