"""How many calibration samples are enough: plans from disjoint parts of the set, beside each other."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from yopo_train.calibration.judge import OutputJudge
from yopo_train.calibration.plan_config import PlanConfig
from yopo_train.calibration.planner import make_plan
from yopo_train.calibration.scores import Scores
from yopo_train.cost import Grid, Prompt
from yopo_train.plan import PruningPlan

SIZES = (8, 16, 32, 64, 128)
BLOCK = 8  # samples that are measured together; every size is made of such blocks
SPLITS = 3
ENOUGH = 0.9  # Jaccard index at which two halves count as agreeing
FEW = 0.8


def stability(
    blocks: Sequence[Scores],
    judge: OutputJudge,
    config: PlanConfig,
    prompt: Prompt | list[Grid],
    on_evaluation: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Overlap and KL divergence of plans from two disjoint parts of the calibration set, for several sizes of a part.

    Parameters
    ----------
    blocks
        Scores of `BLOCK` samples each.
    judge
        Has been given the calibration prompts.
    config
        The budget; plans are uniform whatever its method.
    prompt
        A typical prompt, or the grids of its images.
    on_evaluation
        Called after each judged plan with the number of plans so far.

    Returns
    -------
    dict
        JSON-able: ``sizes``, one entry a size with the Jaccard indices of heads and channels of `SPLITS` random splits
        and the KL divergences of their plans; ``enough``, the smallest size whose plans agree to `ENOUGH`, or null.
    """
    config = replace(config, method="uniform")
    generator, done, sizes = torch.Generator().manual_seed(config.seed), 0, []
    for size in possible_sizes(len(blocks)):
        entry: dict[str, Any] = {"samples": size, "heads_jaccard": [], "channels_jaccard": [], "kl": []}
        each = size // BLOCK
        for _ in range(SPLITS):
            order = torch.randperm(len(blocks), generator=generator).tolist()
            parts = [order[:each], order[each : 2 * each]]
            plans = [make_plan(_joined([blocks[i] for i in part]), config, prompt) for part in parts]
            for name in ("heads", "channels"):
                entry[f"{name}_jaccard"].append(_overlap(*plans, name))
            for plan in plans:
                entry["kl"].append(judge(plan).kl)
                done += 1
                on_evaluation(done)
        sizes.append(entry)
    return {"sizes": sizes, "enough": next((entry["samples"] for entry in sizes if _agrees(entry)), None)}


def possible_sizes(blocks: int) -> list[int]:
    """Sizes of which two disjoint parts are there."""
    return [size for size in SIZES if 2 * size <= blocks * BLOCK]


def half_agreement(scores: Scores, ratio: float = 0.5) -> float:
    """Jaccard index of the best heads by two halves of the samples, mean over a few random splits.

    Parameters
    ----------
    ratio
        Share of each layer's heads that count as best.
    """
    if scores.n_samples < 2:
        return 0.0
    generator, found = torch.Generator().manual_seed(0), []
    keep, half = max(1, round(ratio * scores.dims.heads)), scores.n_samples // 2
    for _ in range(2 * SPLITS):
        order = torch.randperm(scores.n_samples, generator=generator)
        means = (scores.rho[part].mean(dim=0) for part in (order[:half], order[half : 2 * half]))
        best = [mean.argsort(dim=1, descending=True, stable=True).argsort(dim=1) < keep for mean in means]
        found.append(jaccard(*best))
    return sum(found) / len(found)


def too_few(scores: Scores) -> str | None:
    """A warning where the calibration set is too small to say which heads are best, else None."""
    agreement = half_agreement(scores)
    if agreement >= FEW:
        return None
    found = "one sample has no halves to compare"
    if scores.n_samples > 1:
        found = f"its halves ({scores.n_samples // 2} samples each) agree on only "
        found += f"{100 * agreement:.0f} % of the better half of the heads"
    advice = "raise data.calibration_samples (`yopo-train curves` shows how many are enough)"
    return f"the calibration set is small: {found}; {advice}"


def jaccard(first: Tensor, second: Tensor) -> float:
    """Common entries of two masks over all their entries; 1 where both are empty."""
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0


def _overlap(first: PruningPlan, second: PruningPlan, name: str) -> float:
    return jaccard(getattr(first, name), getattr(second, name))


def _agrees(entry: dict[str, Any]) -> bool:
    return all(sum(entry[name]) / len(entry[name]) >= ENOUGH for name in ("heads_jaccard", "channels_jaccard"))


def _joined(blocks: Sequence[Scores]) -> Scores:
    """The scores of several blocks; what plans do not depend on is the first one's."""
    rho, channels = torch.cat([block.rho for block in blocks]), sum(block.channels for block in blocks)
    return replace(blocks[0], rho=rho, channels=channels)
