"""The pruning plan: which computation visual tokens still get, layer by layer, and the file it is kept in.

A plan is made for a model of certain dimensions and says nothing about its weights. Its exact meaning:

- layers ``0 .. depth-1`` process visual tokens, later layers see text only;
- layer ``l < depth``, query head ``h``: if ``heads[l, h]``, visual tokens take part in the head as queries and as keys;
  otherwise the head sees text only;
- layer ``l < depth``: visual tokens use the FFN channels ``channels[l]``, text tokens use all;
- a visual query sees the visual keys of its own image and frame at a row and column distance of at most ``radius``;
- in layer ``depth-1`` nothing of the visual tokens but their keys and values is ever read, and ``heads[depth-1]`` says
  which heads of the text queries read them.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor

from yopo_train.errors import UserError
from yopo_train.tensor_file import read_tensor_file, write_tensor_file

FORMAT_VERSION = 2
"""2: with the architecture, which format 1 is read without."""

SEMANTICS = ("compact", "official")

MOST_RADIUS = 1 << 24
"""Far beyond any image; what is larger does not fit the integers it is compared with."""


@dataclass(frozen=True)
class ModelDims:
    """Sizes of a language model's decoder.

    Parameters
    ----------
    layers
        Number of decoder layers L.
    hidden
        Width d of the residual stream.
    intermediate
        Number m of FFN channels.
    heads, kv_heads
        Query heads, and key/value heads: query head h reads KV head ``h // (heads // kv_heads)``.
    head_dim
        Width of one head (``heads * head_dim`` need not equal ``hidden``).
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if type(value) is not int or value < 1:
                raise UserError(f"model dimension {item.name} is {value!r}, expected a positive integer")
        if self.heads % self.kv_heads:
            raise UserError(f"model dimension heads is {self.heads}, not a multiple of kv_heads ({self.kv_heads})")


@dataclass(eq=False)
class PruningPlan:
    """What visual tokens still compute; see the module's text for the exact meaning.

    Parameters
    ----------
    dims
        The model that the plan is for.
    heads
        Active query heads, bool ``(layers, heads)``; rows ``>= depth`` are all False (see `semantics`).
    channels
        Active FFN channels, bool ``(layers, intermediate)``; rows ``>= depth`` likewise.
    radius
        Neighbor radius, 0 sees only itself (the paper's window is ``2 * radius + 1``). None is no restriction: a visual
        query sees every earlier visual token of its sample, other images' too.
    depth
        Visual depth D, ``0 .. layers``.
    base_model, revision
        Where the model came from, as its checkpoint calls itself.
    made_by
        How the plan was made, JSON-able: preset, budget, choice, seed, ...
    cost
        Predicted cost, JSON-able.
    architecture
        What the base model's config.json said that the plan depends on, JSON-able (see ``models.architecture``); empty
        where it was not recorded.
    semantics
        "compact", or "official" for the authors' masking: softmax not renormalised, window bidirectional, and visual
        tokens live on in layers ``>= depth`` with the heads and channels that are active there.

    Raises
    ------
    UserError
        A field of a wrong shape, type or range; the message names it.
    """

    dims: ModelDims
    heads: Tensor
    channels: Tensor
    radius: int | None
    depth: int
    base_model: str | None = None
    revision: str | None = None
    made_by: dict = field(default_factory=dict)
    cost: dict = field(default_factory=dict)
    semantics: str = "compact"
    architecture: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        layers = self.dims.layers
        if type(self.depth) is not int or not 0 <= self.depth <= layers:
            raise UserError(f"plan depth is {self.depth!r}, expected an integer from 0 to {layers}")
        if self.radius is not None and (type(self.radius) is not int or not 0 <= self.radius <= MOST_RADIUS):
            raise UserError(f"plan radius is {self.radius!r:.40}, expected None or an integer from 0 to {MOST_RADIUS}")
        for name in ("base_model", "revision"):
            if not isinstance(getattr(self, name), str | None):
                raise UserError(f"plan {name} is {getattr(self, name)!r:.40}, expected None or text")
        if self.semantics not in SEMANTICS:
            raise UserError(f"plan semantics is {self.semantics!r}, expected one of {', '.join(SEMANTICS)}")
        for name, width in (("heads", self.dims.heads), ("channels", self.dims.intermediate)):
            mask = getattr(self, name)
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                found = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
                raise UserError(f"plan {name} is of type {found}, expected a bool tensor")
            if tuple(mask.shape) != (layers, width):
                raise UserError(f"plan {name} has shape {tuple(mask.shape)}, expected {(layers, width)}")
            if mask[self.depth :].any() and self.semantics != "official":
                raise UserError(f"plan {name} is active in a layer >= depth ({self.depth}), expected False there")

    @classmethod
    def dense(cls, dims: ModelDims) -> "PruningPlan":
        """The plan that prunes nothing."""
        heads = torch.ones(dims.layers, dims.heads, dtype=torch.bool)
        channels = torch.ones(dims.layers, dims.intermediate, dtype=torch.bool)
        return cls(dims, heads, channels, radius=None, depth=dims.layers)

    @property
    def is_dense(self) -> bool:
        """Whether the plan prunes nothing."""
        complete = self.depth == self.dims.layers and self.radius is None
        return complete and bool(self.heads.all()) and bool(self.channels.all())

    @property
    def id(self) -> str:
        """12 hex digits that are equal for plans that compute the same thing."""
        rule = json.dumps([asdict(self.dims), self.radius, self.depth, self.semantics], sort_keys=True)
        digest = hashlib.sha256(rule.encode())
        for mask in (self.heads, self.channels):
            digest.update(mask.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]

    def kv_heads_needed(self, layer: int) -> Tensor:
        """KV heads that an active query head of ``layer`` reads, bool ``(kv_heads,)``."""
        return self.heads[layer].view(self.dims.kv_heads, -1).any(dim=1)

    def describe(self) -> str:
        """One line for people: depth, radius, and the shares of heads and channels that stay in the visual layers."""
        depth, layers = self.depth, self.dims.layers
        shares = [f"{name} {100 * mask[:depth].float().mean():.1f} %" for name, mask in self._masks().items() if depth]
        radius = "off" if self.radius is None else self.radius
        return f"plan {self.id}: " + ", ".join([f"depth {depth} of {layers}", f"radius {radius}", *shares])

    def check(self, dims: ModelDims, source: str) -> None:
        """Refuse a model of other dimensions.

        Parameters
        ----------
        dims
            The model's.
        source
            What the message calls the model, usually its path.

        Raises
        ------
        UserError
            Names the first dimension that differs.
        """
        for item in fields(ModelDims):
            mine, theirs = getattr(self.dims, item.name), getattr(dims, item.name)
            if mine != theirs:
                made_for = f" ({self.base_model})" if self.base_model else ""
                raise UserError(
                    f"{source}: the model has {item.name} = {theirs}, but the plan was made for a model with "
                    f"{item.name} = {mine}{made_for}"
                )

    def save(self, path: str | Path) -> None:
        """Write ``plan.safetensors``: two boolean masks and a JSON header.

        Raises
        ------
        UserError
            The file cannot be written; an existing one is left as it was.
        """
        names = ("radius", "depth", "base_model", "revision", "made_by", "cost", "semantics", "architecture")
        header = {"dims": asdict(self.dims), **{name: getattr(self, name) for name in names}}
        write_tensor_file(path, "plan", FORMAT_VERSION, self._masks(), header)

    @classmethod
    def load(cls, path: str | Path) -> "PruningPlan":
        """Read what `save` wrote.

        Raises
        ------
        UserError
            Missing or corrupt file, not a plan, a newer format, or masks that contradict the header.
        """
        masks, header = read_tensor_file(path, "plan", FORMAT_VERSION)
        try:
            dims = ModelDims(**header.pop("dims"))
            return cls(dims=dims, **masks, **header)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}: damaged plan, a field is missing or unknown: {error}") from None

    def _masks(self) -> dict[str, Tensor]:
        return {"heads": self.heads, "channels": self.channels}
