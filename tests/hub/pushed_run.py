"""A finished run without the hours, and the real Hub client turned to the fake one."""

import json
from pathlib import Path

import torch
import yaml
from hub.fake_hub import FakeHub
from toy import random_plan, toy_dims

from yopo_train.hub import connection
from yopo_train.models import load_base
from yopo_train.recovery import attach_lora, save_adapter
from yopo_train.recovery.lora_options import LoraOptions

TOKEN = "hf_aVerySecretTokenOfAlice"


def make_run(folder: Path, base: Path) -> Path:
    """A run folder with a plan and an adapter that changes the outputs."""
    model, _ = load_base(str(base))
    torch.manual_seed(0)
    tuned = attach_lora(model, LoraOptions(r=4))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    save_adapter(tuned, folder / "adapter", str(base), None)
    random_plan(toy_dims(model), depth=2, radius=1).save(folder / "plan.safetensors")
    config = {"run_dir": str(folder), "model": {"base": str(base)}, "data": {"path": "/somewhere/questions"}}
    (folder / "config.yaml").write_text("# yopo-train fit --config tiny.yaml\n" + yaml.safe_dump(config))
    scores = {name: {"accuracy": 0.5, "kinds": {}, "samples": 4} for name in ("base", "pruned", "recovered")}
    (folder / "results.json").write_text(json.dumps({"test": scores}))
    return folder


def connect(hub: FakeHub, monkeypatch, home: Path) -> None:
    """Turn this process's huggingface_hub to the fake Hub, with an empty cache and Alice's token."""
    hub.users[TOKEN] = "alice"
    constants = "huggingface_hub.constants"
    monkeypatch.setattr(f"{constants}.ENDPOINT", hub.url)
    monkeypatch.setattr(
        f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(f"{constants}.HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(connection, "WAITS", (0.0, 0.0))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
