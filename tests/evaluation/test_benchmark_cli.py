"""The section `evaluation`: benchmarks in whole runs, on the untrained tiny VLM and the samples that ship."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import Trainer

from yopo_train.cli import YopoCLI, main
from yopo_train.evaluation import runner
from yopo_train.evaluation.benchmarks import BENCHMARKS
from yopo_train.pipeline import stages

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "data" / "benchmarks"
QUICK = {"sources": str(SAMPLES), "limit": 6, "max_new_tokens": 2, "batch_size": 4}


def run(config: Path, *options: str, command: str = "fit") -> int:
    return main([command, "--config", str(config), *options])


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(autouse=True)
def short_bench(monkeypatch):
    monkeypatch.setattr(stages, "BENCH_REPEATS", 1)
    monkeypatch.setattr(stages, "BENCH_BATCH", 1)


@pytest.fixture
def benchmarked(config):
    """A configuration with two benchmarks."""

    def write(**evaluation) -> Path:
        sections = yaml.safe_load(config.read_text())
        sections["evaluation"] = {"benchmarks": ["pope", "mme"], **QUICK, **evaluation}
        config.write_text(yaml.safe_dump(sections))
        return config

    return write


def test_fit_scores_every_stage_and_adds_benchmarks_later(benchmarked, tmp_path, capsys, monkeypatch):
    config, folder = benchmarked(every_n_steps=2, train_limit=4), tmp_path / "run"
    assert run(config) == 0
    printed = capsys.readouterr().out
    assert "[10/10] benchmarks recovered: the recovered model answers pope, mme" in printed
    results = results_of(folder)
    plan = results["train"]["plan"]
    for stage in ("base", "pruned", "recovered"):
        found = results["benchmarks"][stage]
        assert found.keys() == {"pope", "mme"}
        for name, result in found.items():
            lines = (folder / "predictions" / stage / f"{name}.jsonl").read_text().splitlines()
            assert len(lines) == result["items"] == len(BENCHMARKS[name].items(SAMPLES / name, limit=6))
            assert result["score"] == result["scores"][result["headline"]]
            assert result["plan"] == (None if stage == "base" else plan)
            assert result["generation"]["max_new_tokens"] == 2 and not result["generation"]["do_sample"]
            assert result["seconds"] > 0 and "transformers" in result["versions"] and result["model"].endswith("tiny")
    summary = (folder / "summary.md").read_text()
    assert "| POPE |" in summary and "| recovered |" in summary.split("| POPE |")[1]
    assert "published" not in summary
    header, *rows = [line.split(",") for line in (folder / "logs" / "metrics.csv").read_text().splitlines()]
    place = header.index("bench/pope/f1_mean")
    assert [row[header.index("step")] for row in rows if row[place]] == ["2", "3"], "while it was trained"
    assert "bench/mme/perception" in header

    def refused(*args, **kwargs):
        raise AssertionError("nothing is generated twice")

    monkeypatch.setattr(runner, "generate_answers", refused)
    monkeypatch.setattr(Trainer, "fit", refused)
    assert run(config) == 0
    assert capsys.readouterr().out.count("done already") == 10
    monkeypatch.undo()

    asked, generate = [], runner.generate_answers
    monkeypatch.setattr(runner, "generate_answers", lambda *a, **k: asked.append(1) or generate(*a, **k))
    monkeypatch.setattr(Trainer, "fit", refused)
    assert run(config, "--evaluation.benchmarks=[pope,gqa]") == 0
    printed = capsys.readouterr().out
    assert printed.count("done already") == 7, "all but the benchmarks of the three stages"
    assert len(asked) == 3 * 2, "only what is new: six items in batches of four"
    after = results_of(folder)
    assert after["benchmarks"]["base"].keys() == {"pope", "mme", "gqa"}
    assert after["benchmarks"]["base"]["pope"] == results["benchmarks"]["base"]["pope"]
    assert after["test"] == results["test"] and after["train"] == results["train"]


def test_test_scores_all_seven(benchmarked, tmp_path, capsys):
    config, folder = benchmarked(benchmarks="all"), tmp_path / "run"
    assert run(config, command="test") == 0
    printed = capsys.readouterr().out
    assert "test base: accuracy" in printed and "benchmarks base: gqa" in printed and "MMB" in printed
    found = results_of(folder)["benchmarks"]["base"]
    assert found.keys() == set(BENCHMARKS)
    assert all(result["score"] is not None for result in found.values())
    saved = folder / "config.yaml"
    assert yaml.safe_load(saved.read_text())["evaluation"]["benchmarks"] == "all"

    assert run(saved, command="test") == 0
    again = results_of(folder)["benchmarks"]["base"]
    assert {name: result["scores"] for name, result in again.items()} == {n: r["scores"] for n, r in found.items()}
    assert all(result["resumed"] == result["items"] for result in again.values()), "answers of this model are kept"

    shutil.rmtree(folder / "predictions" / "base")
    assert run(saved, "--evaluation.benchmarks=[]", command="test") == 0
    assert run(saved, command="validate") == 0
    assert results_of(folder)["benchmarks"]["base"] == again, "neither concerns them"
    assert not (folder / "predictions" / "base").exists()


def test_a_killed_test_goes_on_within_a_benchmark(benchmarked, tmp_path, monkeypatch):
    config, folder = benchmarked(limit=None), tmp_path / "run"
    generate, asked = runner.generate_answers, []

    def killed(*args, **kwargs):
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return generate(*args, **kwargs)

    monkeypatch.setattr(runner, "generate_answers", killed)
    assert run(config, command="test") == 130
    assert "benchmarks" not in results_of(folder)
    monkeypatch.setattr(runner, "generate_answers", generate)
    assert run(config, command="test") == 0
    assert results_of(folder)["benchmarks"]["base"]["pope"]["resumed"] == 8


def test_a_new_plan_is_scored_again(benchmarked, tmp_path):
    config, folder = benchmarked(benchmarks="mme"), tmp_path / "run"
    found = []
    for choice in ("score", "prefix"):
        (folder / "plan.safetensors").unlink(missing_ok=True)
        assert run(config, f"--model.pruning.choice={choice}", command="plan") == 0
        assert "benchmarks" not in results_of(folder) or "pruned" not in results_of(folder)["benchmarks"]
        assert run(config, f"--model.pruning.choice={choice}", command="test") == 0
        found.append(results_of(folder)["benchmarks"]["pruned"]["mme"])
    assert found[0]["plan"] != found[1]["plan"] and found[1]["resumed"] == 0
    names = {file.name for file in (folder / "predictions" / "pruned").iterdir()}
    assert names == {"mme.jsonl", "mme.json", "mme.old-1.jsonl", "mme.old-1.json"}, "the old answers are set aside"


BAD = {
    "unknown benchmark": (["--evaluation.benchmarks=[popes]"], "evaluation.benchmarks names 'popes'"),
    "unknown source": (["--evaluation.sources={popes: x}"], "evaluation.sources names 'popes'"),
    "no such folder": (["--evaluation.sources=no/such/folder"], "no/such/folder/pope"),
    "limit": (["--evaluation.limit=0"], "evaluation.limit is 0"),
    "batch size": (["--evaluation.batch_size=0"], "evaluation.batch_size is 0"),
    "protocol": (["--evaluation.protocol=magic"], "evaluation.protocol is 'magic', expected one of"),
    "split": (["--evaluation.splits={pope: tests}"], "tests"),
    "nothing to score while training": (
        ["--evaluation.benchmarks=[]", "--evaluation.every_n_steps=5"],
        "evaluation.every_n_steps is 5",
    ),
}


@pytest.mark.parametrize("options, said", BAD.values(), ids=BAD)
def test_what_is_wrong_is_said_in_one_line_before_anything_is_done(options, said, benchmarked, tmp_path, capsys):
    assert run(benchmarked(), *options) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_configurations_compose(benchmarked, tmp_path):
    class Parsed(YopoCLI):
        def _run_subcommand(self, subcommand: str) -> None:
            pass

    other = tmp_path / "other.yaml"
    other.write_text("evaluation: {limit: 4, sources: {pope: here}}\n")
    config = benchmarked()
    options = Parsed(["fit", "--config", str(config), "--config", str(other)]).context.evaluation
    assert (options.names, options.limit, options.source("pope"), options.source("mme")) == (
        ["pope", "mme"],
        4,
        "here",
        None,
    )
    options = Parsed(["test", "--config", str(config), "--evaluation.benchmarks", "all"]).context.evaluation
    assert options.names == list(BENCHMARKS)
    assert options.source("mme") == str(SAMPLES / "mme")
