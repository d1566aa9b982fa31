"""The folder of a finished run of the untrained tiny VLM: a real plan, scores and adapter, invented results."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from toy import random_plan, toy_dims
from toy_scores import random_scores

from yopo_train.calibration.weight_norms import WeightNorms
from yopo_train.cost import Prompt, kv_cache_bytes, prefill_flops, visual_flops
from yopo_train.models import family_of, load_base
from yopo_train.models.architecture import architecture
from yopo_train.plan import PruningPlan
from yopo_train.recovery import LoraOptions, attach_lora, save_adapter
from yopo_train.run_folder import RunFolder

PROMPT = Prompt([(1, 12, 12)], 14)
SECRET = "/home/somebody/private folder"
COMMAND = f"yopo-train fit --config '{SECRET}/tiny.yaml' --data.path=/mnt/disk/vqa"


def finished_run(path: Path, base: Path, trained: bool = True, pruned: bool = True) -> RunFolder:
    """Write it; ``base`` is a folder of the tiny VLM."""
    run, (model, _) = RunFolder(path), load_base(base)
    config = {
        "seed_everything": 0,
        "run_dir": str(path),
        "model": {"base": str(base), "revision": None, "offload_folder": f"{SECRET}/offload"},
        "data": {"path": f"{SECRET}/questions", "batch_size": 4},
    }
    run.claim(config, COMMAND)
    plan = random_plan(toy_dims(model), depth=6, radius=2)
    if pruned:
        plan.base_model, plan.architecture = str(base), architecture(model.config)
        plan.made_by = {"samples": 5, "data_fingerprint": f"{SECRET}/questions, split 'calibration' f00"}
        plan.made_by |= {"head_mask": "/srv/masks/heads.npy", "method": "auto"}
        plan.save(run.plan)
        matching_scores(model, str(base)).save(run.scores)
    run.results_file.write_text(json.dumps(results(plan, trained, pruned)))
    if trained:
        save_adapter(with_adapter(model), run.adapter, str(base), None)
    return run


def with_adapter(model):
    """A LoRA adapter on every layer that changes every answer."""
    model = attach_lora(model, LoraOptions(r=2, lora_alpha=4))
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data.normal_(std=0.05, generator=generator)
    return model.eval()


def matching_scores(model, base: str):
    """Random scores, with the norms of the model's own weights."""
    dims = toy_dims(model)
    norms = [WeightNorms.of_layer(layer, dims) for layer in family_of(model).text_model(model).layers]
    heads, channels = (torch.stack([getattr(norm, name) for norm in norms]) for name in ("heads", "channels"))
    about = {"base_model": base, "revision": None, "data_fingerprint": f"{SECRET}/questions f00"}
    return replace(random_scores(dims), head_norms=heads.float(), channel_norms=channels.float(), **about)


def results(plan: PruningPlan, trained: bool, pruned: bool) -> dict:
    """What a run writes, with invented accuracies and times."""
    stages = ["base"] + ["pruned"] * pruned + ["recovered" if pruned else "trained"] * trained
    test = {
        stage: {"accuracy": 0.9 + 0.01 * i, "kinds": {"colour": 0.8}, "samples": 40, "seconds": 1.0}
        for i, stage in enumerate(stages)
    }
    found = {"test": test, "environment": {"hardware": "a toaster, 2 cores", "versions": "new", "command": COMMAND}}
    plans = {"base": PruningPlan.dense(plan.dims), "pruned": plan}
    cost = {
        name: {
            "visual_flops": visual_flops(each, PROMPT.grids),
            "prefill_flops": prefill_flops(each, PROMPT),
            "kv_cache_bytes": kv_cache_bytes(each, PROMPT),
        }
        for name, each in plans.items()
    }
    if pruned:
        found["cost"] = cost | {"prompt": {"grids": [[1, 12, 12]], "visual_tokens": 144, "text_tokens": 14}}
        found["bench"] = {"base": {"prefill": 20.0}, "pruned": {"prefill": 8.0}, "speedup": 2.5, "repeats": 10}
        found["benchmarks"] = {stage: {"pope": pope()} for stage in stages}
        found["bench"] |= {"device": "a toaster", "threads": 2, "dtype": "float32", "batch": 8}
    if trained:
        found["train"] = {"tuning": "lora", "plan": plan.id if pruned else None, "steps": 3, "seconds": 4.0}
        found["train"] |= {"trainable": 1000, "parameters": 3000000}
    return found


def pope() -> dict:
    """A benchmark's entry of results.json."""
    asked = {
        "protocol": "llava",
        "source": f"{SECRET}/pope",
        "split": None,
        "limit": 12,
        "seed": 0,
        "max_new_tokens": None,
    }
    return {
        "score": 81.5,
        "benchmark": "pope",
        "protocol": "llava",
        "headline": "f1_mean",
        "scores": {"f1_mean": 81.5},
        "items": 12,
        "model": f"{SECRET}/tiny-vlm",
        "revision": None,
        "asked": asked,
    }
