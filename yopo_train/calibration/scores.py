"""What calibration measured, and the file it is kept in: any number of plans is made from one scores file."""

import hashlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from yopo_train.errors import UserError
from yopo_train.plan import ModelDims
from yopo_train.tensor_file import read_tensor_file, write_tensor_file

FORMAT_VERSION = 1


@dataclass(eq=False)
class Scores:
    """Statistics of one model over a calibration set.

    Parameters
    ----------
    dims
        The model's.
    rho
        Head ratio of each sample (see `HeadRatio`), float32 ``(samples, layers, heads)``.
    channels
        Channel score (see `ChannelScore`), float32 ``(layers, intermediate)``.
    head_norms, channel_norms
        Norms of the weights (see `weight_norms`), the control `magnitude`; float32, ``(layers, heads)`` and
        ``(layers, intermediate)``.
    base_model, revision
        Where the model came from, as its checkpoint calls itself.
    data_fingerprint
        Which data was read.

    Raises
    ------
    UserError
        A tensor of a wrong shape or type, or one that is not finite; the message names it (and the layer).
    """

    dims: ModelDims
    rho: Tensor
    channels: Tensor
    head_norms: Tensor
    channel_norms: Tensor
    base_model: str | None = None
    revision: str | None = None
    data_fingerprint: str | None = None

    def __post_init__(self) -> None:
        layers, heads, channels = self.dims.layers, self.dims.heads, self.dims.intermediate
        shapes = {
            "rho": (self.n_samples, layers, heads),
            "channels": (layers, channels),
            "head_norms": (layers, heads),
            "channel_norms": (layers, channels),
        }
        if not self.n_samples:
            raise UserError("scores rho holds no sample, expected at least one")
        for name, shape in shapes.items():
            tensor = getattr(self, name)
            if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
                found = f"{tensor.dtype} {tuple(tensor.shape)}"
                raise UserError(f"scores {name} is {found}, expected torch.float32 {shape}")
            finite = tensor.isfinite().all(dim=-1).view(-1, layers).all(dim=0)
            if not finite.all():
                layer = int((~finite).nonzero()[0])
                raise UserError(f"scores {name} is not finite in layer {layer}: the model's activations overflow there")

    @property
    def n_samples(self) -> int:
        """Number of samples with an image."""
        return len(self.rho)

    @property
    def id(self) -> str:
        """12 hex digits of the measured values."""
        digest = hashlib.sha256()
        for tensor in self._tensors().values():
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]

    def save(self, path: str | Path) -> None:
        """Write ``scores.safetensors``.

        Raises
        ------
        UserError
            The file cannot be written; an existing one is left as it was.
        """
        header = {"dims": asdict(self.dims), "n_samples": self.n_samples}
        header |= {name: getattr(self, name) for name in ("base_model", "revision", "data_fingerprint")}
        write_tensor_file(path, "scores", FORMAT_VERSION, self._tensors(), header)

    @classmethod
    def load(cls, path: str | Path) -> "Scores":
        """Read what `save` wrote.

        Raises
        ------
        UserError
            Missing or corrupt file, not scores, a newer format, or tensors that contradict the header.
        """
        tensors, header = read_tensor_file(path, "scores", FORMAT_VERSION)
        try:
            dims, n_samples = ModelDims(**header.pop("dims")), header.pop("n_samples")
            scores = cls(dims=dims, **tensors, **header)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}: damaged scores, a field is missing or unknown: {error}") from None
        if n_samples != scores.n_samples:
            raise UserError(f"{path}: scores rho holds {scores.n_samples} samples, the header says {n_samples}")
        return scores

    def _tensors(self) -> dict[str, Tensor]:
        return {item.name: getattr(self, item.name) for item in fields(self) if item.type is Tensor}
