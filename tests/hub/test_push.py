"""Pushing, against a server that speaks the Hub's API."""

import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from hub.fake_hub import FakeHub
from hub.pushed_run import TOKEN, connect, contents, make_run
from safetensors.torch import load_file, save_file

from yopo_train.cli import main
from yopo_train.hub.folder import export
from yopo_train.hub.options import HubOptions
from yopo_train.hub.push import push
from yopo_train.models import load_base
from yopo_train.plan import PruningPlan
from yopo_train.pruning import prune
from yopo_train.recovery import load_adapter

REPO = "alice/pruned"
WITHOUT_XET = "huggingface_hub.constants.HF_HUB_DISABLE_XET"


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_vlm):
    return make_run(tmp_path_factory.mktemp("runs") / "run", tiny_vlm)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, run):
    return export(run, tmp_path_factory.mktemp("exported") / "folder", base_model="org/tiny", repo_id=REPO)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with FakeHub() as hub:
        connect(hub, monkeypatch, tmp_path / "home")
        yield hub
    assert not hub.leaks and not hub.faults


def pushed(hub, repo_id=REPO, ref="main"):
    files = dict(hub.repos[repo_id].files(ref))
    files.pop(".gitattributes", None)
    return files


def fails(arguments, capsys):
    """The one line of a command that fails as a user's error."""
    assert main(["push", *map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert TOKEN not in printed.out + printed.err and "Traceback" not in printed.err
    lines = [line for line in printed.err.splitlines() if not line.endswith(" s")]  # which say when it is tried again
    assert len(lines) == 1 and lines[0].startswith("error: "), printed.err
    return lines[0]


FRESH = """
import sys
import torch
from safetensors.torch import load_file, save_file
import yopo_train
from yopo_train.hub.pull import pull
assert pull("alice/pruned", "pulled")
model, _ = yopo_train.load("alice/pruned", base=sys.argv[1])
with torch.no_grad():
    save_file({"logits": model(**load_file("inputs.safetensors")).logits}, "outputs.safetensors")
"""


def test_what_is_pushed_and_pulled_in_a_fresh_process_has_the_same_files_and_outputs(
    hub, run, folder, tiny_vlm, tmp_path, capsys
):
    """The push finds that the server has no xet storage; the fresh process has HF_ENDPOINT, and nothing cached."""
    hub.part_bytes = 8192
    assert main(["push", str(run), "--repo_id", REPO, "--base-model", "org/tiny"]) == 0
    assert capsys.readouterr().out == f"pushed: {hub.url}/{REPO}\n"
    assert hub.sent("POST", "/complete") == 1, "the adapter goes in parts"
    assert pushed(hub) == contents(folder)

    ids = torch.cat([torch.tensor([1]), torch.full((144,), 3), torch.arange(10, 20)])[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.randn(1, 3, 96, 96)}
    save_file(inputs, tmp_path / "inputs.safetensors")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    own = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "other"), "OMP_NUM_THREADS": "1"}
    about = {"env": kept | own, "cwd": tmp_path, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", FRESH, tiny_vlm], **about)
    assert done.returncode == 0 and TOKEN not in done.stdout + done.stderr, done.stdout + done.stderr
    assert contents(tmp_path / "pulled") == contents(folder)
    assert all(TOKEN.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())

    model = load_base(str(tiny_vlm))[0]
    with torch.no_grad():
        dense = model(**inputs).logits[:, 145:]
        prune(model, PruningPlan.load(run / "plan.safetensors"))
        expected = load_adapter(model, run / "adapter").eval()(**inputs).logits[:, 145:]
    found = load_file(tmp_path / "outputs.safetensors")["logits"][:, 145:]
    torch.testing.assert_close(found, expected)
    assert (found - dense).abs().max() > 1e-3, "plan and adapter change the outputs"


def test_a_second_push_updates_and_an_unchanged_one_makes_no_commit(hub, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(WITHOUT_XET, True)
    hub.add(REPO, {"LICENSE": b"mine", "scores.safetensors": b"of another run", "notes.md": b"mine too"})
    assert push(folder, HubOptions(repo_id=REPO)) == f"{hub.url}/{REPO}"
    mine = {"LICENSE": b"mine", "notes.md": b"mine too"}
    assert pushed(hub) == contents(folder) | mine  # the scores went: they were not this plan's
    commits = len(hub.repos[REPO].commits)
    push(folder, HubOptions(repo_id=REPO))
    assert len(hub.repos[REPO].commits) == commits

    url = push(folder, HubOptions(repo_id=REPO, revision="step-100"), message="Best so far")
    assert url.endswith("/tree/step-100") and pushed(hub, ref="step-100") == contents(folder) | mine


def test_a_dry_run_lists_and_sends_nothing(hub, run, folder, capsys):
    assert main(["push", str(run), "--repo_id", REPO, "--base_model", "org/tiny", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    for name, content in contents(folder).items():
        assert f"{len(content):,}  {name}" in printed
    assert not hub.requests and not hub.repos


@pytest.mark.parametrize(
    "fault",
    [
        ("PUT", "/lfs/", "drop"),
        ("PUT", "/lfs/", 503),
        ("POST", "/api/repos/create", 429),
        ("POST", "/commit/", "drop"),
        ("POST", "/commit/", 502),
    ],
)
def test_an_interrupted_push_is_tried_again(hub, folder, fault, monkeypatch):
    monkeypatch.setattr(WITHOUT_XET, True)
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None))
    hub.faults.append(fault)
    push(folder, HubOptions(repo_id=REPO))
    assert pushed(hub) == contents(folder) and len(hub.repos[REPO].messages) == 2


def test_a_pull_request_leaves_main_and_is_opened_once(hub, folder, monkeypatch, capsys):
    monkeypatch.setattr(WITHOUT_XET, True)
    repo = hub.add("bob/model", {"README.md": b"bob's"})
    assert push(folder, HubOptions(repo_id="bob/model", create_pr=True)) == f"{hub.url}/bob/model/discussions/1"
    assert repo.files() == {"README.md": b"bob's"} and pushed(hub, "bob/model", "refs/pr/1") == contents(folder)

    hub.faults.append(("POST", "/commit/", "drop"))  # nobody knows whether it arrived
    assert "no connection" in fails([folder, "--repo_id", "bob/model", "--create-pr"], capsys)
    assert len(repo.refs) == 2


def test_what_the_hub_refuses_is_one_line(hub, folder, monkeypatch, capsys):
    monkeypatch.setattr(WITHOUT_XET, True)
    hub.add("bob/model", {})
    hub.add(REPO, {})
    assert "no right" in fails([folder, "--repo_id", "bob/model"], capsys)
    assert "bob/model" in fails([folder, "--repo_id", "bob/model"], capsys)
    assert "public" in fails([folder, "--repo_id", REPO, "--private"], capsys)
    hub.readers.add(TOKEN)  # a token that may only read
    assert "403" in fails([folder, "--repo_id", "alice/new"], capsys)
    monkeypatch.setenv("HF_TOKEN", TOKEN + "x")
    assert "token is refused (401)" in fails([folder, "--repo_id", REPO], capsys)
    monkeypatch.delenv("HF_TOKEN")
    assert "no Hugging Face token" in fails([folder, "--repo_id", REPO], capsys)
    assert all(set(hub.repos[name].files()) <= {".gitattributes"} for name in hub.repos)


def test_a_server_that_stays_away_is_one_line(hub, folder, monkeypatch, capsys):
    hub.faults += [("POST", "/api/repos/create", 503)] * 3
    assert "503" in fails([folder, "--repo_id", REPO], capsys)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "no connection to http://127.0.0.1:9" in fails([folder, "--repo_id", REPO], capsys)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in fails([folder, "--repo_id", REPO], capsys)


@pytest.mark.parametrize(
    "name", ["pruned", "alice/", "alice/../bob", "a b/c", "alice/x.git", "a/" + "x" * 97, "https://hf.co/a/b"]
)
def test_a_name_that_no_repository_has_is_refused(hub, folder, name, capsys):
    assert "expected user/name" in fails([folder, f"--repo_id={name}"], capsys)
    assert not hub.requests


def test_an_unsafe_or_unfinished_folder_is_not_sent(hub, folder, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "plan.safetensors").write_bytes(b"\xff" * 64)
    assert "plan.safetensors" in fails([broken, "--repo_id", REPO], capsys)
    assert "no such folder" in fails([tmp_path / "nothing", "--repo_id", REPO], capsys)
    assert "revision" in fails([folder, "--repo_id", REPO, "--create_pr", "--revision", "dev"], capsys)
    assert not hub.requests


def test_the_servers_words_never_show_the_token(hub, folder, monkeypatch, capsys):
    """A proxy may answer with what it was sent."""
    hub.faults.append(("POST", "/api/repos/create", 418))
    hub.words = f"you sent Bearer {TOKEN}"
    assert "hf_***" in fails([folder, "--repo_id", REPO], capsys)
