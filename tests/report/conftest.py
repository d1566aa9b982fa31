"""A run folder as a whole run would leave it: invented numbers, but plausible ones."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from yopo_train.calibration import PlanConfig, Scores, make_plan
from yopo_train.cost import Prompt, kv_cache_bytes, prefill_flops, visual_flops
from yopo_train.plan import ModelDims, PruningPlan
from yopo_train.run_folder import RunFolder

SMALL = ModelDims(layers=8, hidden=64, intermediate=160, heads=8, kv_heads=4, head_dim=8)
STEP_LOSS = {"score": 0.6, "random": 2.0, "magnitude": 1.3, "prefix": 2.3}


def plausible_scores(dims: ModelDims, samples: int = 16, side: int = 12) -> Scores:
    """Heads that look at the image sit in the middle layers, channels are unequal, attention is local."""
    generator = torch.Generator().manual_seed(1)
    layers, heads, channels = dims.layers, dims.heads, dims.intermediate
    place = torch.linspace(0, 1, layers)
    level = 0.03 + 0.5 * torch.exp(-(((place - 0.35) / 0.2) ** 2))
    rho = level[:, None] * torch.randn(layers, heads, generator=generator).mul(1.2).exp()
    rho = rho * torch.randn(samples, layers, heads, generator=generator).mul(0.2).exp()
    widths = (0.5 + 1.5 * (1 - place))[:, None]
    scores = (torch.randn(layers, channels, generator=generator) * widths).exp()
    near = torch.exp(-torch.arange(side) / (1 + 5 * place[:, None])) * (1 + torch.arange(side))
    norms = [torch.rand(layers, width, generator=generator) for width in (heads, channels)]
    return Scores(
        dims,
        rho=rho,
        channels=scores,
        neighbor_mass=near / near.sum(dim=1, keepdim=True),
        head_norms=norms[0],
        channel_norms=norms[1],
        base_model="org/model",
        revision="abc",
        data_fingerprint="questions f00",
    )


def plausible_curves(dims: ModelDims) -> dict:
    """Effects that fade with what is kept, exactly 0 for what prunes nothing."""

    def point(value: float | None, kept: float, strength: float) -> dict:
        kl = strength * (1 - kept) ** 2 * math.exp(-3 * kept)
        return {"value": value, "kl": kl, "agreement": math.exp(-kl), "share": kept}

    def choices(strength: float) -> dict:
        ratios = [i / 8 for i in range(1, 9)]
        seeds = {"random": (0.8, 1.0, 1.25)}
        return {
            name: [point(r, r, strength * loss * seed) for seed in seeds.get(name, (1.0,)) for r in ratios]
            for name, loss in STEP_LOSS.items()
        }

    radii = [0, 1, 2, 3, 5, 8, None]
    return {
        "samples": 64,
        "answer_tokens": 130,
        "depth": [point(d, d / dims.layers, 6.0) for d in range(dims.layers + 1)],
        "radius": [point(r, i / (len(radii) - 1), 0.2) for i, r in enumerate(radii)],
        "heads": choices(0.5),
        "channels": choices(2.0),
    }


def plausible_search(plan: PruningPlan, share: float, budget: float) -> dict:
    """A grid, local steps, three controls, and the plan of the folder as the last step."""
    generator = torch.Generator().manual_seed(2)
    entries = []
    for step, (cost, noise) in enumerate(torch.rand(120, 2, generator=generator).tolist()):
        cost = 0.04 + 0.5 * cost
        stage = "grid" if step < 80 else "local"
        kl = 0.002 + 0.5 * math.exp(-9 * cost) * (1 + 6 * noise**3)
        entries.append({"plan": f"{step:012x}", "stage": stage, "cost": cost, "kl": kl})
    for number, stage in enumerate(("uniform", "random", "preset")):
        cost = budget - 0.002 * number
        entries.append({"plan": f"control{number}", "stage": stage, "cost": cost, "kl": 0.2 * (number + 1)})
    entries.append({"plan": plan.id, "stage": "local", "cost": share, "kl": 0.03})
    trace = []
    for step, entry in enumerate(entries):
        setting = {"depth": 5, "radius": 3, "heads": 0.5, "channels": 0.2}
        trace.append({"step": step, **setting, **entry, "share": entry["cost"], "agreement": math.exp(-entry["kl"])})
    about = {"measure": "visual_flops", "budget": budget, "samples": 64, "seconds": 55.2}
    return about | {"chosen": plan.id, "trace": trace}


def plausible_stability() -> dict:
    """Five repetitions a size; overlap grows with the samples."""
    sizes = []
    for samples in (8, 16, 32, 64, 128):
        steps = [1 + 0.05 * i for i in range(5)]
        sizes.append(
            {
                "samples": samples,
                "heads_jaccard": [1 - 0.9 / samples**0.6 / step for step in steps],
                "channels_jaccard": [1 - 1.2 / samples**0.5 / step for step in steps],
                "kl": [0.3 / samples * step for step in steps],
            }
        )
    return {"sizes": sizes, "enough": 64}


def plausible_results(plan: PruningPlan, prompt: Prompt) -> dict:
    """Accuracy of three stages, costs by formula, prefill times."""
    accuracy = {"base": 0.94, "pruned": 0.61, "recovered": 0.92}
    test = {
        stage: {"accuracy": value, "kinds": {"colour": value, "count": value - 0.1}, "samples": 500, "seconds": 3.0}
        for stage, value in accuracy.items()
    }
    cost = {
        name: {
            "visual_flops": visual_flops(found, prompt.grids),
            "prefill_flops": prefill_flops(found, prompt),
            "kv_cache_bytes": kv_cache_bytes(found, prompt),
        }
        for name, found in (("base", PruningPlan.dense(plan.dims)), ("pruned", plan))
    }
    return {
        "test": test,
        "cost": cost | {"prompt": {"grids": prompt.grids, "visual_tokens": prompt.visual_tokens, "text_tokens": 40}},
        "bench": {"base": {"prefill": 20.0}, "pruned": {"prefill": 7.5}},
        "environment": {"hardware": "a toaster", "command": "yopo-train fit --config <x>.yaml", "versions": "new"},
    }


def plausible_log(steps: int = 100) -> str:
    """A loss that falls, and two validations: a line each ten steps."""
    lines = ["epoch,step,train/grad_norm,train/loss,train/lr,val/accuracy"]
    for step in range(9, steps, 10):
        share = step / steps
        lines.append(f"0,{step},{2 - share},{0.4 + math.exp(-5 * share)},{1e-4 * (1 - share)},")
        if step in (49, 99):
            lines.append(f"0,{step},,,,{0.9 * share}")
    return "\n".join(lines) + "\n"


def write_run(path: Path, dims: ModelDims = SMALL, side: int = 12, budget: float = 0.25) -> RunFolder:
    """A whole run's folder."""
    run = RunFolder(path)
    run.claim({"run_dir": str(path)}, "yopo-train fit")
    scores = plausible_scores(dims, side=side)
    scores.save(run.scores)
    plan = make_plan(scores, PlanConfig(budget=budget), [(1, side, side)])
    plan.save(run.plan)
    results = plausible_results(plan, Prompt([(1, side, side)], 40))
    share = results["cost"]["pruned"]["visual_flops"] / results["cost"]["base"]["visual_flops"]
    contents = {
        "results": results,
        "curves": plausible_curves(dims),
        "search": plausible_search(plan, share, budget),
        "stability": plausible_stability(),
    }
    for name, content in contents.items():
        (run.path / f"{name}.json").write_text(json.dumps(content))
    run.logs.mkdir()
    (run.logs / "metrics.csv").write_text(plausible_log())
    return run


@pytest.fixture(scope="session")
def make_run() -> Callable[..., RunFolder]:
    """`write_run`."""
    return write_run


@pytest.fixture
def run(tmp_path) -> RunFolder:
    """The folder of a whole run of a small model."""
    return write_run(tmp_path / "run")
