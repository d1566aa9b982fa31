"""How a checkpoint's file is written and read: whole, or not at all."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol
from lightning.pytorch.plugins.io import TorchCheckpointIO

from yopo_train.errors import UserError, first_line


class NotWritten(UserError):
    """A checkpoint's file cannot be written; the process that writes it is the only one that knows."""


class WholeFile(TorchCheckpointIO):
    """Writes under a temporary name beside the file, brings it to the disk, and only then gives it its name.

    Lightning's own writes the temporary file in the system's folder for such files, whence a move to another disk is a
    copy: a process that is killed meanwhile leaves neither the old checkpoint nor the new one. It also keeps the whole
    file in memory first. Addresses that are no local files are left to Lightning.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; what was there under this name stays whole until the new one is.

        Raises
        ------
        NotWritten
            It cannot be written; what was there is still there.
        """
        if not _is_local_file_protocol(str(path)):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except (OSError, RuntimeError) as error:  # a full disk is the second in torch's words
            reason = getattr(error, "strerror", None) or first_line(error)
            raise NotWritten(f"{path}: the checkpoint cannot be written: {reason}") from error
        finally:
            temporary.unlink(missing_ok=True)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint.

        Raises
        ------
        UserError
            There is none, or it is damaged or holds more than numbers, texts and tensors.
        """
        try:
            return super().load_checkpoint(path, *args, **kwargs)
        except Exception as error:  # torch's readers fail with whatever they stumble over
            reason = getattr(error, "strerror", None) or (str(error).splitlines() or ["it ends too early"])[0]
            raise UserError(f"{path}: not a checkpoint that can be read: {reason}") from error
