"""What a folder of somebody else's is looked at for before anything of it is used.

Only safetensors, JSON and text are ever read; nothing in a folder is run, imported or unpickled. `check_folder` judges
file names, and the headers of tensor files: no tensor is loaded and nothing large is allocated for a file that lies.
Values that only the tensors show, such as NaN in scores, are checked by who loads them.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import Any

from yopo_train.errors import UserError, first_line
from yopo_train.hub.safety_adapter import check_adapter
from yopo_train.tensor_header import MIB, MOST_BYTES, TensorHeader, read_header

SUFFIXES = (".safetensors", ".json", ".yaml", ".md", ".png", ".txt", ".jinja")
"""Endings of the files that are sent and fetched."""
PATTERNS = tuple(f"*{suffix}" for suffix in SUFFIXES)

MOST_TEXT = 64 * MIB
MOST_JSON = 4 * MIB
"""Of a JSON file that is read here; others, such as a tokenizer's, are larger."""
MOST_WEIGHTS_HEADER = 16 * MIB
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MOST_FILES = 2000
MOST_NAME = 200

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")


def is_allowed(name: str) -> bool:
    """Whether a file of this name is sent and fetched: by its ending, and nothing that is hidden."""
    return name.endswith(SUFFIXES) and not any(part.startswith(".") for part in PurePosixPath(name).parts)


def check_names(names: Iterable[str], source: str) -> list[str]:
    """The names that are sent or fetched.

    Parameters
    ----------
    names
        All files, relative to their folder, parts joined by ``/``.
    source
        What a message calls the folder or repository.

    Raises
    ------
    UserError
        A name that leads out of the folder, whatever its ending; one with characters that no file of ours has; or far
        too many files.
    """
    allowed = []
    for name in names:
        if name.startswith(("/", "~")) or "\\" in name or ".." in name.split("/") or ":" in name:
            raise UserError(f"{source}: the file name {name!r:.100} leads out of the folder")
        if not is_allowed(name):
            continue
        if len(name) > MOST_NAME or not _NAME.fullmatch(name):
            raise UserError(
                f"{source}: the file name {name!r:.100} is refused, expected letters, digits, and . _ - + /"
            )
        allowed.append(name)
        if len(allowed) > MOST_FILES:
            raise UserError(f"{source}: more than {MOST_FILES} files, expected an exported run")
    return sorted(allowed)


def check_size(name: str, size: int, source: str) -> None:
    """Refuse a file that is larger than one of its name can be.

    Raises
    ------
    UserError
        Names the file.
    """
    kind = name.removesuffix(".safetensors")
    most = MOST_BYTES.get(kind) if name.endswith(".safetensors") else MOST_TEXT
    if most is not None and size > most:
        raise UserError(f"{source}: {name} has {size} bytes, expected at most {most}")


def files_of(folder: Path) -> list[str]:
    """Names of the files that are sent, checked.

    Raises
    ------
    UserError
        No folder, or a name that `check_names` refuses.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return check_names(names, str(folder))


def check_folder(folder: str | Path) -> list[str]:
    """Look through an exported folder.

    Parameters
    ----------
    folder
        One that was exported here, or fetched from anywhere.

    Returns
    -------
    list of str
        Names of its files; others are not to be touched.

    Raises
    ------
    UserError
        Anything that is not as in a folder that this program writes; the message names file and field.
    """
    folder = Path(folder)
    names = files_of(folder)
    for name in names:
        check_size(name, (folder / name).stat().st_size, str(folder))
        if name.endswith(".safetensors") and name.removesuffix(".safetensors") not in MOST_BYTES:
            read_header(folder / name, most_header=MOST_WEIGHTS_HEADER)
    for name in {"results.json", "adapter_config.json"} & set(names):
        read_json(folder / name)
    if "plan.safetensors" in names:
        check_plan(folder / "plan.safetensors")
    if "scores.safetensors" in names:
        read_header(folder / "scores.safetensors", MOST_BYTES["scores"])
    if "adapter_config.json" in names:
        if ADAPTER_WEIGHTS not in names:
            raise UserError(f"{folder}: adapter_config.json without {ADAPTER_WEIGHTS}")
        weights = read_header(folder / ADAPTER_WEIGHTS, most_header=MOST_WEIGHTS_HEADER)
        check_adapter(read_json(folder / "adapter_config.json"), weights, str(folder))
    return names


def read_json(path: str | Path) -> Any:
    """A JSON file of moderate size, as plain data.

    Raises
    ------
    UserError
        Not readable, too large, or too deep.
    """
    path = Path(path)
    try:
        if (size := path.stat().st_size) > MOST_JSON:
            raise UserError(f"{path}: has {size} bytes, expected at most {MOST_JSON}")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged JSON: {first_line(error)[:100]}") from None


# -- plan -------------------------------------------------------------------------------------------------------------
MOST_DIM = 1 << 24


def check_plan(path: str | Path) -> TensorHeader:
    """Look at a plan's header: dimensions, and two masks of just these dimensions. The masks themselves are not read.

    Raises
    ------
    UserError
        Names what is wrong.
    """
    from yopo_train.plan import ModelDims  # loads torch

    path = Path(path)
    header = read_header(path, MOST_BYTES["plan"])
    try:
        about = json.loads(header.metadata["yopo_train"])
        kind, dims, depth, radius = about["kind"], about["dims"], about["depth"], about["radius"]
        sizes = {item.name: dims[item.name] for item in fields(ModelDims)}
    except (KeyError, TypeError, ValueError, RecursionError):
        raise UserError(f"{path}: a safetensors file without a plan's header") from None
    if kind != "plan":
        raise UserError(f"{path}: holds {kind!r:.40}, expected a plan")
    for name, value in sizes.items():
        if type(value) is not int or not 1 <= value <= MOST_DIM:
            raise UserError(f"{path}: dimension {name} is {value!r:.40}, expected an integer from 1 to {MOST_DIM}")
    for name, value in (("depth", depth), ("radius", 0 if radius is None else radius)):
        if type(value) is not int or not 0 <= value <= MOST_DIM:
            raise UserError(f"{path}: {name} is {value!r:.40}, expected an integer from 0 to {MOST_DIM}")
    for name in ("base_model", "revision"):
        if not isinstance(about.get(name), str | None):
            raise UserError(f"{path}: {name} is {about[name]!r:.40}, expected text")
    shapes = {
        name: (sizes["layers"], sizes[width]) for name, width in (("heads", "heads"), ("channels", "intermediate"))
    }
    found = {name: (entry.dtype, entry.shape) for name, entry in header.tensors.items()}
    if found != {name: ("BOOL", shape) for name, shape in shapes.items()}:
        said = ", ".join(f"{name!r:.40}: {dtype} {shape}" for name, (dtype, shape) in list(found.items())[:4])
        wanted = ", ".join(f"{name!r}: BOOL {shape}" for name, shape in shapes.items())
        raise UserError(f"{path}: holds {said or 'no tensor'}; expected {wanted}")
    return header
