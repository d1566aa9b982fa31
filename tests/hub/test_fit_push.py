"""The section ``hub`` of a fit: the best adapters on the way, the result at the end, and no run that fails for it."""

import json
import threading
from types import SimpleNamespace

import pytest
import torch
from hub.fake_hub import FakeHub
from hub.pushed_run import TOKEN, connect
from lightning.pytorch.callbacks import ModelCheckpoint

from yopo_train.cli import main
from yopo_train.errors import UserError
from yopo_train.hub.callback import PushBest
from yopo_train.hub.options import HubOptions
from yopo_train.hub.push_run import prepare_push
from yopo_train.pipeline import stages

REPO = "alice/tiny-pruned"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setattr(stages, "BENCH_REPEATS", 1)
    monkeypatch.setattr(stages, "BENCH_BATCH", 1)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with FakeHub() as hub:
        connect(hub, monkeypatch, tmp_path / "home")
        yield hub


def fit(config, *options):
    return main(["fit", "--config", str(config), "--hub.push=true", *options])


def test_fit_pushes_each_best_adapter_and_the_result_and_never_fails_for_it(hub, config, tmp_path, capsys):
    checkpoint = [
        "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint",
        "--trainer.callbacks.monitor=train/loss",
        "--trainer.callbacks.every_n_train_steps=1",
        f"--trainer.callbacks.dirpath={tmp_path / 'best'}",
    ]
    assert fit(config, f"--hub.repo_id={REPO}", "--hub.base_model=org/tiny", *checkpoint) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"pushed: {hub.url}/{REPO}"
    repo = hub.repos[REPO]
    assert repo.messages[1].startswith("Best so far: train/loss ") and repo.messages[-1] == "Push run"
    first, *_, last = (files for files in repo.commits.values() if "adapter_model.safetensors" in files)
    assert first["adapter_model.safetensors"] != last["adapter_model.safetensors"]
    assert last["adapter_model.safetensors"] == (tmp_path / "run/adapter/adapter_model.safetensors").read_bytes()
    assert json.loads(last["adapter_config.json"])["base_model_name_or_path"] == "org/tiny"
    assert "recovered" in json.loads(last["results.json"])["test"]
    everything = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert TOKEN.encode() not in everything and TOKEN not in printed

    # somebody else's repository; and another place for the same run is no other run
    hub.add("bob/model", {})
    assert fit(config, "--hub.repo_id=bob/model", "--hub.private=true", *checkpoint) == 0
    printed = capsys.readouterr().out
    last = printed.splitlines()[-1]
    assert printed.count("done already") == 7 and last.startswith("not pushed: push bob/model: ")
    assert last.endswith(f"push it later with: yopo-train push {tmp_path / 'run'} --repo_id bob/model --private")


class Best(ModelCheckpoint):
    """One that says what is best."""

    def __init__(self, path):
        super().__init__(monitor="val/loss")
        self.best_model_path = path


@pytest.fixture
def pushes(monkeypatch, tmp_path):
    """`PushBest` before a Hub that takes its time: what is pushed, and the event that lets it go on."""
    pushed, go_on = [], threading.Event()
    go_on.began = threading.Event()

    def push_or_tell(run, target, adapter, message):
        go_on.began.set()
        assert go_on.wait(30)
        pushed.append((message, adapter.read_text()))

    def save_adapter(model, folder, base, revision, weights):
        folder.write_text(weights["w"])

    monkeypatch.setattr("yopo_train.hub.callback.push_or_tell", push_or_tell)
    monkeypatch.setattr("yopo_train.hub.callback.save_adapter", save_adapter)
    callback = PushBest(tmp_path, HubOptions(True, REPO))
    module = SimpleNamespace(model=torch.nn.Module(), base="b", revision=None)

    def train(best, step, rank=0):
        trained = {"model.w": f"weights of step {step}"}
        parts = {
            "global_rank": rank,
            "global_step": step,
            "checkpoint_callbacks": [ModelCheckpoint(), Best(best)],  # the first has no monitor
            "strategy": SimpleNamespace(lightning_module_state_dict=lambda: trained),
        }
        return SimpleNamespace(**parts), module

    return callback, train, pushed, go_on


def test_training_does_not_wait_and_of_what_waits_the_latest_is_pushed(pushes):
    callback, train, pushed, go_on = pushes
    callback.on_train_start(*train("from before.ckpt", 0))
    callback.on_train_batch_start(*train("from before.ckpt", 0), None, 0)
    for step, best in enumerate(["a", "a", "b", "c", "c"], start=1):
        callback.on_train_batch_start(*train(best, step), None, step)
        assert go_on.began.wait(30)
    assert not pushed
    go_on.set()
    callback.on_train_end(*train("d", 6))
    # the second was replaced while the first was under way; the last two may have met
    assert pushed[0] == ("Best so far: val/loss at step 1", "weights of step 1")
    assert pushed[-1] == ("Best so far: val/loss at step 6", "weights of step 6") and len(pushed) in (2, 3)
    assert ("Best so far: val/loss at step 3", "weights of step 3") not in pushed


def test_only_the_first_rank_pushes(pushes):
    callback, train, pushed, go_on = pushes
    go_on.set()
    callback.on_train_batch_start(*train("a", 1, rank=1), None, 0)
    callback.on_train_end(*train("b", 2, rank=1))
    assert not pushed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "hub.repo_id is None, expected user/name"),
        ({"repo_id": "x"}, "hub.repo_id is 'x', expected user/name"),
        ({"repo_id": REPO, "create_pr": True, "revision": "dev"}, "hub.revision is 'dev'"),
    ],
)
def test_what_could_not_be_pushed_is_refused(hub, options, message):
    with pytest.raises(UserError, match=message):
        HubOptions(push=True, **options).check()
    HubOptions(push=False, **options).check()


def test_a_complete_model_is_merged_first(hub):
    context = SimpleNamespace(trains=True, module=SimpleNamespace(tuning="full"))
    with pytest.raises(UserError, match="expected lora"):
        prepare_push(context, HubOptions(True, REPO))


def test_it_is_refused_before_anything_is_done(hub, config, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert fit(config, f"--hub.repo_id={REPO}") == 2
    assert "no Hugging Face token found" in capsys.readouterr().err
    assert not (tmp_path / "run").exists() and not hub.requests


def test_the_command_that_pushes_later_pushes_in_the_same_way():
    target = HubOptions(True, REPO, private=True, revision="dev", base_model="org/base", license="mit")
    assert target.command("my run") == (
        f"yopo-train push 'my run' --repo_id {REPO} --revision dev --base_model org/base --license mit --private"
    )
