"""Files of tensors with a JSON header: what ``plan.safetensors`` and ``scores.safetensors`` are made of.

safetensors metadata holds strings only, so the header is one JSON string in it. Reading never runs code from the
file, writing never leaves a half-written file behind, and each way that a file can be wrong is one `UserError`.
"""

import json
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from yopo_train.errors import UserError
from yopo_train.tensor_header import MOST_BYTES, read_header

_KEY = "yopo_train"


def write_tensor_file(path: str | Path, kind: str, version: int, tensors: dict[str, Tensor], header: dict) -> None:
    """Write ``tensors`` and ``header`` to ``path`` under a temporary name, then rename.

    Parameters
    ----------
    kind
        What the file is ("plan", "scores"); `read_tensor_file` refuses any other kind.
    version
        Format version, a positive integer that grows when older readers would misread the file.
    header
        JSON-able.

    Raises
    ------
    UserError
        The file cannot be written (no such folder, no permission, disk full).
    """
    path = Path(path)
    text = json.dumps({"kind": kind, "version": version, **header}, sort_keys=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(stored, temporary, {_KEY: text})
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot write the {kind}: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def read_tensor_file(
    path: str | Path, kind: str, version: int, outdated: str | None = None
) -> tuple[dict[str, Tensor], dict]:
    """Read what `write_tensor_file` wrote: the tensors and the header.

    Parameters
    ----------
    outdated
        What to do about a file of an older format, which is refused then.

    Raises
    ------
    UserError
        Missing, unreadable or corrupt file, one far too large, a file of another kind, or a format newer than
        ``version`` (or older, see above).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected a {kind} file")
    read_header(path, MOST_BYTES.get(kind))
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # cloned: the file may be replaced while the tensors live
            tensors = {name: file.get_tensor(name).clone() for name in file.offset_keys()}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}), expected a {kind} file") from None
    try:
        header = json.loads(metadata[_KEY])
        found, found_version = header.pop("kind"), int(header.pop("version"))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError):
        raise UserError(f"{path}: a safetensors file without a yopo_train header, expected a {kind} file") from None
    if found != kind:
        raise UserError(f"{path}: holds {found}, expected a {kind} file")
    if found_version > version:
        raise UserError(f"{path}: {kind} format {found_version} is newer than this yopo_train reads ({version})")
    if found_version < version and outdated is not None:
        raise UserError(f"{path}: {kind} format {found_version} was made by an older version of yopo_train: {outdated}")
    return tensors, header
