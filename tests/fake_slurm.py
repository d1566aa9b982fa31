"""A SLURM that there is none of: its variables, and a ``scontrol`` that only notes what it is asked for."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest


def fake_scontrol(folder: Path) -> None:
    """Writes what it is asked for into ``scontrol.log`` in the folder; it is in ``bin``."""
    file = folder / "bin" / "scontrol"
    file.parent.mkdir()
    file.write_text(f'#!/bin/sh\necho "$@" >> {folder}/scontrol.log\n')
    file.chmod(0o755)


def in_slurm(folder: Path, patch: pytest.MonkeyPatch, more: Mapping[str, str] = {}) -> None:
    """This process is the only one of job 4711, whose ``scontrol`` is `fake_scontrol`'s in the folder."""
    fake_scontrol(folder)
    task = {"NTASKS": "1", "NTASKS_PER_NODE": "1", "JOB_ID": "4711", "JOB_NAME": "recover", "PROCID": "0"}
    variables = {f"SLURM_{name}": value for name, value in (task | {"LOCALID": "0", "NODEID": "0"}).items()}
    for name, value in (variables | dict(more) | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}).items():
        patch.setenv(name, value)
