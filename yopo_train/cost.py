"""What a plan costs, by closed formulas: visual FLOPs, prefill FLOPs and KV-cache bytes. No model is needed.

Two measures stand side by side. *Visual FLOPs* is the paper's: the visual tokens alone, attention counted over all
pairs as if it were not causal. *Prefill FLOPs* is the whole prompt as it really runs: text included, attention counted
over the (query, key) pairs that are attended; `bench/flops.py` counts the same on what really runs. A multiply-add is
two FLOPs; norms, softmax, biases, the vision tower and the projector are not counted.

A plan that prunes nothing stands for the base model. Any other plan also saves, in its last visual layer, everything
of the visual tokens but their keys and values.
"""

from dataclasses import dataclass

from yopo_train.errors import UserError
from yopo_train.plan import ModelDims, PruningPlan

Grid = tuple[int, int, int]
"""Visual tokens of one image: (frames, rows, columns)."""


@dataclass
class Prompt:
    """The shape of one prompt.

    Parameters
    ----------
    grids
        One `Grid` an image, in order.
    text_tokens
        Number of all other tokens.
    text_before
        Text tokens in front of each image, one number an image; None means that all text follows the images. Only the
        attention of the last visual layer depends on it.
    """

    grids: list[Grid]
    text_tokens: int
    text_before: list[int] | None = None

    def __post_init__(self) -> None:
        if self.text_before is not None and len(self.text_before) != len(self.grids):
            raise UserError(f"text_before has {len(self.text_before)} numbers for {len(self.grids)} images")

    @property
    def visual_tokens(self) -> int:
        """Number of visual tokens of all images."""
        return sum(frames * rows * columns for frames, rows, columns in self.grids)


def dense_visual_flops(dims: ModelDims, n: int) -> float:
    """Visual FLOPs of the base model for ``n`` visual tokens.

    YOPO (arXiv 2410.06169), section 3: ``L (2n(4d^2 + 3dm) + 4n^2 d)``. The 4d^2 is q, k, v and o; with grouped
    queries k and v are smaller, which is counted.
    """
    attention = 4 * n**2 * dims.heads * dims.head_dim
    linear = _attention_linear(dims, dims.heads, dims.kv_heads) + _ffn(dims, dims.intermediate)
    return float(dims.layers * (n * linear + attention))


def visual_flops(plan: PruningPlan, grids: list[Grid]) -> float:
    """Visual FLOPs under ``plan``, in the convention of `dense_visual_flops`.

    Layer by layer: q and o of the active heads, k and v of the KV heads they read, the active FFN channels, and the
    active heads' attention over the visual keys in the window, both directions, clipped at the image's border. The
    last visual layer computes k and v only.
    """
    n = Prompt(grids, 0).visual_tokens
    if plan.is_dense:
        return dense_visual_flops(plan.dims, n)
    pairs = window_pairs(grids, plan.radius)
    total = 0
    for layer in range(plan.depth):
        total += n * _visual_linear(plan, layer)
        if layer < plan.depth - 1:
            total += 4 * plan.dims.head_dim * int(plan.heads[layer].sum()) * pairs
    return float(total)


def prefill_flops(plan: PruningPlan, prompt: Prompt, vocab: int = 0) -> float:
    """FLOPs of the language model for the whole prompt, up to the first answer token.

    Linear layers on the tokens that pass them, attention (4 head_dim FLOPs a pair: scores and values) on the pairs that
    are attended, and the LM head on the last token.

    Parameters
    ----------
    vocab
        Rows of the LM head; 0 leaves the LM head out.
    """
    return float(sum(layer_flops(plan, prompt)) + 2 * plan.dims.hidden * vocab)


def layer_flops(plan: PruningPlan, prompt: Prompt) -> list[int]:
    """FLOPs of `prefill_flops` layer by layer, without the LM head."""
    dims, depth, dense = plan.dims, plan.depth, plan.is_dense
    text, visual = prompt.text_tokens, prompt.visual_tokens
    text_pairs = text * (text + 1) // 2
    # a text and a visual token are attended once, by the later of the two; so are two visual tokens in a window
    mixed_pairs = text * visual
    visual_pairs = (window_pairs(prompt.grids, plan.radius) + visual) // 2
    text_query_pairs = mixed_pairs - _visual_query_text_pairs(prompt)

    linear = _attention_linear(dims, dims.heads, dims.kv_heads) + _ffn(dims, dims.intermediate)
    layers = [text * linear + 4 * dims.head_dim * dims.heads * text_pairs] * dims.layers
    for layer in range(depth):
        last = layer == depth - 1 and not dense
        layers[layer] += visual * (linear if dense else _visual_linear(plan, layer))
        pairs = text_query_pairs if last else mixed_pairs + visual_pairs
        layers[layer] += 4 * dims.head_dim * int(plan.heads[layer].sum()) * pairs
    return layers


def kv_cache_bytes(plan: PruningPlan, prompt: Prompt, bytes_per_value: int = 2) -> int:
    """Bytes of the KV cache after prefill.

    Keys and values of the text tokens for every layer and KV head, of the visual tokens for the KV heads that an active
    query head reads (none from the visual depth on).
    """
    dims = plan.dims
    needed = sum(int(plan.kv_heads_needed(layer).sum()) for layer in range(plan.depth))
    rows = prompt.text_tokens * dims.layers * dims.kv_heads + prompt.visual_tokens * needed
    return 2 * dims.head_dim * rows * bytes_per_value


def _attention_linear(dims: ModelDims, heads: int, kv_heads: int) -> int:
    """FLOPs a token of q and o with ``heads`` heads, and of k and v with ``kv_heads``."""
    return 2 * dims.hidden * dims.head_dim * (2 * heads + 2 * kv_heads)


def _ffn(dims: ModelDims, channels: int) -> int:
    """FLOPs a token of gate, up and down with ``channels`` channels."""
    return 3 * 2 * dims.hidden * channels


def _visual_linear(plan: PruningPlan, layer: int) -> int:
    """FLOPs of one visual token in the linear layers of ``layer < depth``."""
    kv_heads = int(plan.kv_heads_needed(layer).sum())
    if layer == plan.depth - 1:
        return _attention_linear(plan.dims, 0, kv_heads)
    heads, channels = int(plan.heads[layer].sum()), int(plan.channels[layer].sum())
    return _attention_linear(plan.dims, heads, kv_heads) + _ffn(plan.dims, channels)


def window_pairs(grids: list[Grid], radius: int | None) -> int:
    """Ordered pairs of visual tokens, itself included, that lie within the radius of each other."""
    if radius is None:
        return Prompt(grids, 0).visual_tokens ** 2
    return sum(frames * _line_pairs(rows, radius) * _line_pairs(columns, radius) for frames, rows, columns in grids)


def _line_pairs(length: int, radius: int) -> int:
    """Ordered pairs of ``0 .. length-1`` at a distance of at most ``radius``."""
    radius = min(radius, length - 1)
    return length * (2 * radius + 1) - radius * (radius + 1)


def _visual_query_text_pairs(prompt: Prompt) -> int:
    """Pairs of a visual query and a text key in front of it."""
    before = prompt.text_before or [0] * len(prompt.grids)
    return sum(text * Prompt([grid], 0).visual_tokens for text, grid in zip(before, prompt.grids, strict=True))
