"""The README is true: its Python block runs, and its names exist."""

import re
from pathlib import Path

import yopo_train

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def block(name: str) -> str:
    return re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```", README, re.DOTALL)[1]


def test_python_block_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    namespace = {}
    exec(compile(block("python"), "README.md", "exec"), namespace)
    assert namespace["meta"][0]["question"] in capsys.readouterr().out
    assert yopo_train.active_plan(namespace["model"]) is None


def test_commands_name_files_that_exist():
    for path in re.findall(r"(?:configs|data)/[\w./-]+", README):
        assert list(ROOT.glob(path.rstrip("./"))), path


def test_public_names():
    assert all(getattr(yopo_train, name) is not None for name in yopo_train.__all__)
    assert set(yopo_train.__all__) <= set(dir(yopo_train))
