"""What calibration measured, and the file it is kept in: any number of plans is made from one scores file."""

import hashlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from yopo_train.errors import UserError
from yopo_train.plan import ModelDims
from yopo_train.tensor_file import read_tensor_file, write_tensor_file

FORMAT_VERSION = 2
"""2: with the neighbor mass."""


ABOUT = ("base_model", "revision", "data_fingerprint", "seed", "batch_size")
"""Fields that say where the statistics come from."""


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
    neighbor_mass
        Share of visual-to-visual attention at each grid distance (see `NeighborMass`), float32 ``(layers, distances)``;
        the distances are 0, 1, ... up to the largest that an image has.
    head_norms, channel_norms
        Norms of the weights (see `WeightNorms`), the control `magnitude`; float32, ``(layers, heads)`` and
        ``(layers, intermediate)``.
    base_model, revision
        Where the model came from, as its checkpoint calls itself.
    data_fingerprint
        Which data was read.
    seed
        What the samples were drawn by.
    batch_size
        Samples read together; of no influence but on rounding.

    Raises
    ------
    UserError
        A tensor of a wrong shape or type, or one that is not finite; the message names it (and the layer).
    """

    dims: ModelDims
    rho: Tensor
    channels: Tensor
    neighbor_mass: Tensor
    head_norms: Tensor
    channel_norms: Tensor
    base_model: str | None = None
    revision: str | None = None
    data_fingerprint: str | None = None
    seed: int | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        layers, heads, channels = self.dims.layers, self.dims.heads, self.dims.intermediate
        distances = self.neighbor_mass.shape[1] if self.neighbor_mass.dim() == 2 else 1
        shapes = {
            "rho": (self.n_samples, layers, heads),
            "channels": (layers, channels),
            "neighbor_mass": (layers, distances),
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
    def cross_modal(self) -> Tensor:
        """Share of their attention that text queries behind the image give to visual keys, float32 ``(layers,)``.

        YOPO (arXiv 2410.06169), figure 3. The mean over text queries, heads and samples. A query's weights on visual
        and on other keys add up to 1, so a head's share follows from its rho: ``rho / (1 + rho)``.
        """
        return (self.rho / (1 + self.rho)).mean(dim=(0, 2))

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
        header |= {name: getattr(self, name) for name in ABOUT}
        write_tensor_file(path, "scores", FORMAT_VERSION, self._tensors(), header)

    @classmethod
    def load(cls, path: str | Path) -> "Scores":
        """Read what `save` wrote.

        Raises
        ------
        UserError
            Missing or corrupt file, not scores, a newer or an older format, or tensors that contradict the header.
        """
        tensors, header = read_tensor_file(path, "scores", FORMAT_VERSION, outdated="delete it and calibrate again")
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
