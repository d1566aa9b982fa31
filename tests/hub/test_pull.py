"""Fetching, against a server that speaks the Hub's API."""

import errno
import json
from types import SimpleNamespace

import pytest
from hub.fake_hub import FakeHub
from hub.pushed_run import TOKEN, connect, contents

from yopo_train.cli import main
from yopo_train.errors import UserError
from yopo_train.hub.pull import pull, snapshot
from yopo_train.plan import ModelDims, PruningPlan

REPO = "alice/pruned"


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """A training-free result: the smallest folder there is."""
    file = tmp_path_factory.mktemp("plans") / "plan.safetensors"
    PruningPlan.dense(ModelDims(layers=2, hidden=4, intermediate=300, heads=2, kv_heads=2, head_dim=2)).save(file)
    return file.read_bytes()


@pytest.fixture
def files(plan):
    return {"plan.safetensors": plan, "README.md": b"---\nlicense: mit\n---\n", "plots/heat.json": b"[1]"}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with FakeHub() as hub:
        connect(hub, monkeypatch, tmp_path / "home")
        monkeypatch.chdir(tmp_path)
        yield hub
    assert not hub.leaks


def fails(capsys, *arguments):
    """The one line of a command that fails as a user's error; nothing is left of what it began."""
    assert main(["pull", *map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert TOKEN not in printed.out + printed.err and "Traceback" not in printed.err
    lines = [line for line in printed.err.splitlines() if not line.endswith(" s")]  # which say when it is tried again
    assert len(lines) == 1 and lines[0].startswith("error: "), printed.err
    return lines[0]


def test_a_pull_takes_the_known_files_and_never_overwrites(hub, files, tmp_path, capsys):
    rest = {"run.py": b"print()", "pytorch_model.bin": b"\x80", ".gitattributes": b"", "weights.pth": b""}
    repo = hub.add(REPO, files | rest)
    out = tmp_path / "deep" / "out"
    assert main(["pull", REPO, str(out)]) == 0 and contents(out) == files
    assert not any(hub.sent("GET", f"/{name}") for name in rest), "not even fetched"
    assert main(["pull", REPO, str(out)]) == 0 and "was there already" in capsys.readouterr().out

    repo.commit("main", files | {"README.md": b"---\nlicense: gpl\n---\n"}, "another licence")
    assert "is there already with other content" in fails(capsys, REPO, out)
    assert contents(out) == files
    (out / "mine.txt").write_text("mine")
    assert "other content" in fails(capsys, REPO, out)
    assert "other content" in fails(capsys, REPO, out / "mine.txt")


def test_a_revision_is_a_branch_a_commit_or_a_pull_request(hub, files, tmp_path):
    repo = hub.add(REPO, files)
    first = repo.refs["main"]
    repo.commit("main", {"README.md": b"nothing here"}, "emptied")
    repo.commit("refs/pr/1", files | {"LICENSE.txt": b"mit"}, "a proposal")
    assert pull(REPO, tmp_path / "first", first) and contents(tmp_path / "first") == files
    assert pull(REPO, tmp_path / "pr", "refs/pr/1") and "LICENSE.txt" in contents(tmp_path / "pr")
    with pytest.raises(UserError, match="there is no such revision"):
        pull(REPO, tmp_path / "none", "v9")
    with pytest.raises(UserError, match=r"holds no plan.* and no adapter_config"):
        pull(REPO, tmp_path / "none")


def test_the_cache_serves_without_a_connection(hub, files, tmp_path, monkeypatch, capsys):
    hub.add(REPO, files)
    folder = snapshot(REPO)
    sent = len(hub.requests)
    with monkeypatch.context() as offline:
        offline.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert snapshot(REPO) == folder and len(hub.requests) == sent
        assert "HF_HUB_OFFLINE is set" in fails(capsys, "alice/other", tmp_path / "out")
    hub.faults += [("GET", "/api/models/", 503)] * 2
    assert snapshot(REPO) == folder
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert snapshot(REPO) == folder
    assert "no connection to http://127.0.0.1:9" in fails(capsys, "alice/other", tmp_path / "out")


@pytest.mark.parametrize("fault", [("GET", "/api/models/", 500), ("GET", "/cdn/", 503), ("HEAD", "/resolve/", "drop")])
def test_an_interrupted_pull_is_tried_again(hub, files, tmp_path, fault):
    hub.add(REPO, files)
    hub.faults.append(fault)
    assert pull(REPO, tmp_path / "out") and contents(tmp_path / "out") == files and not hub.faults


def test_what_the_hub_refuses_is_one_line(hub, files, tmp_path, monkeypatch, capsys):
    hub.add("bob/secret", files, private=True)
    out = tmp_path / "out"
    assert "no such repository" in fails(capsys, "bob/secret", out)
    assert "no such repository" in fails(capsys, "bob/nothing", out)
    assert "expected user/name" in fails(capsys, "../bob", out)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "token is refused (401)" in fails(capsys, "bob/secret", out)
    monkeypatch.delenv("HF_TOKEN")
    assert "no Hugging Face token" in fails(capsys, "bob/secret", out)
    assert not out.exists()


def test_a_full_disk_is_one_line(hub, files, tmp_path, monkeypatch, capsys):
    hub.add(REPO, files)
    out = tmp_path / "out"
    with monkeypatch.context() as full:
        full.setattr("yopo_train.hub.pull.shutil.disk_usage", lambda _: SimpleNamespace(free=10))
        assert "bytes, but the disk of" in fails(capsys, REPO, out)
        assert not hub.sent("GET", "/resolve/") and not hub.sent("GET", "/cdn/")

    def write(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "blob")

    with monkeypatch.context() as full:
        full.setattr("huggingface_hub.file_download.http_get", write)
        assert "the disk is full" in fails(capsys, REPO, out)
    with monkeypatch.context() as full:
        full.setattr("yopo_train.hub.pull.shutil.copyfile", write)
        assert f"{out}: cannot be written: No space left on device" in fails(capsys, REPO, out)
    assert not out.exists() and not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../../escaped.json", "leads out of the folder"),
        ("/tmp/escaped.json", "leads out of the folder"),
        ("a\nb.json", "is refused"),
    ],
)
def test_a_hostile_list_of_files_is_refused_before_anything_is_fetched(hub, files, tmp_path, capsys, name, message):
    hub.add(REPO, files | {name: b"{}"})
    assert message in fails(capsys, REPO, tmp_path / "out")
    assert not hub.sent("GET", "/tree/") and not hub.sent("HEAD", "") and not (tmp_path / "home").exists()


def test_files_that_are_too_large_are_refused_before_anything_is_fetched(hub, files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("yopo_train.hub.safety.MOST_TEXT", 1000)
    hub.add(REPO, files | {"results.json": json.dumps([0] * 1000).encode()})
    assert "results.json has 3000 bytes, expected at most 1000" in fails(capsys, REPO, tmp_path / "out")
    assert not hub.sent("HEAD", "")


def test_a_hostile_plan_is_fetched_and_refused(hub, files, tmp_path, capsys):
    hub.add(REPO, files | {"plan.safetensors": (1 << 40).to_bytes(8, "little") + b"{}"})
    assert "plan.safetensors" in fails(capsys, REPO, tmp_path / "out")
    assert not (tmp_path / "out").exists()
