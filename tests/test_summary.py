"""The table of a run and the comparison of runs."""

import pytest
from toy_scores import random_scores

from yopo_train.calibration import PlanConfig, make_plan
from yopo_train.errors import UserError
from yopo_train.plan import ModelDims, PruningPlan
from yopo_train.run_folder import RunFolder
from yopo_train.run_keys import flatten
from yopo_train.summary import Table, compare, run_table, score_table, write_summary

GRIDS = [(1, 4, 4)]
DIMS = ModelDims(layers=4, hidden=48, intermediate=56, heads=4, kv_heads=4, head_dim=12)


def results(base: float, pruned: float, recovered: float | None = None) -> dict:
    scores = {"base": base, "pruned": pruned, "recovered": recovered}
    entries = {
        stage: {"accuracy": value, "kinds": {"colour": value, "count": 0.5}, "samples": 40}
        for stage, value in scores.items()
        if value is not None
    }
    costs = {
        "base": {"visual_flops": 2e12, "prefill_flops": 3e12, "kv_cache_bytes": 2**20},
        "pruned": {"visual_flops": 5e11, "prefill_flops": 1e12, "kv_cache_bytes": 2**19},
        "prompt": {"grids": GRIDS, "visual_tokens": 16, "text_tokens": 7},
    }
    return {"test": entries, "cost": costs}


def cells(table: Table) -> dict[str, list[str]]:
    return {row[0].strip(): row[1:] for row in table.rows}


def make_run(path, found: dict, settings: dict | None = None, **config) -> str:
    run = RunFolder(path)
    if settings is not None:
        run.claim(settings, "yopo-train fit --config x.yaml")
    for section, value in found.items():
        run.record(section, value)
    if config:
        make_plan(random_scores(DIMS), PlanConfig(**config), GRIDS).save(run.plan)
    return str(path)


def test_the_table_of_a_run():
    bench = {"base": {"prefill": 20.0}, "pruned": {"prefill": 5.0}}
    table = run_table(results(0.8, 0.6, 0.78) | {"bench": bench})
    assert table.headers == ["", "base", "pruned", "recovered"]
    assert cells(table) == {
        "accuracy %": ["80.0", "60.0", "78.0"],
        "of base %": ["100.0", "75.0", "97.5"],
        "colour": ["80.0", "60.0", "78.0"],
        "count": ["50.0", "50.0", "50.0"],
        "visual FLOPs": ["2.00 T (100.0 %)", "500.00 G (25.0 %)", "500.00 G (25.0 %)"],
        "prefill FLOPs": ["3.00 T (100.0 %)", "1.00 T (33.3 %)", "1.00 T (33.3 %)"],
        "prefill ms": ["20.00", "5.00", "-"],
        "KV cache": ["1.0 MiB", "512.0 KiB", "512.0 KiB"],
    }


def test_what_is_missing_is_a_dash():
    found = results(0.8, 0.6)
    del found["test"]["pruned"]
    assert cells(run_table(found))["colour"] == ["80.0", "-"]
    assert "prefill ms" not in cells(run_table(found))
    trained = {"test": {"trained": {"accuracy": 0.9, "kinds": {}, "samples": 3}}}
    assert cells(run_table(trained)) == {"accuracy %": ["90.0"]}
    assert cells(score_table(trained["test"])) == {"accuracy %": ["90.0"]}


def test_markdown_is_aligned():
    lines = Table(["", "base"], [["accuracy %", "1.0"]]).markdown().splitlines()
    assert lines == ["|            | base |", "| ---------- | ---: |", "| accuracy % |  1.0 |"]


def test_the_summary_names_plan_prompt_and_hardware(tmp_path):
    found = results(0.8, 0.6) | {"environment": {"hardware": "a toaster", "command": "fit --config x.yaml"}}
    run = RunFolder(make_run(tmp_path / "run", found, budget=0.25))
    write_summary(run)
    text = run.summary.read_text()
    for part in ("# run", "pruned |", "40 held-out", "16 visual", "plan ", "choice score", "a toaster", "x.yaml"):
        assert part in text, part


def test_runs_that_differ_in_the_seed_are_averaged(tmp_path):
    runs = [
        make_run(tmp_path / "a", results(0.8, 0.4, 0.8), budget=0.25, choice="random", seed=0),
        make_run(tmp_path / "b", results(0.8, 0.6, 0.7), budget=0.25, choice="random", seed=1),
        make_run(tmp_path / "c", results(0.8, 0.8), budget=0.25),
    ]
    rows = {row[0]: row[1:] for row in compare(runs).rows}
    assert rows == {
        "25 % random": ["2", "25.0 ± 0.0", "80.0 ± 0.0", "50.0 ± 14.1", "62.5 ± 17.7", "75.0 ± 7.1", "93.8 ± 8.8"],
        "25 % score": ["1", "25.0", "80.0", "80.0", "100.0", "-", "-"],
    }


def test_a_search_and_its_random_control_are_two_experiments(tmp_path):
    runs = [make_run(tmp_path / name, results(0.8, 0.4), budget=0.25) for name in ("a", "b")]
    for run, choice in zip(runs, ("score", "random"), strict=True):
        plan = PruningPlan.load(RunFolder(run).plan)
        plan.made_by |= {"method": "auto", "choice": choice}
        plan.save(RunFolder(run).plan)
    assert [row[0] for row in compare(runs).rows] == ["25 % auto", "25 % auto, random"]


def settings(**changes) -> dict:
    """A configuration; ``model__lora={...}`` sets a key of a section."""
    sections = {
        "seed_everything": 0,
        "run_dir": "a",
        "model": {"base": "tiny", "lora": {"r": 4}, "pruning": {"budget": 0.25, "depth": None, "seed": 0}},
        "data": {"path": "questions", "num_workers": 0},
        "trainer": {"max_steps": 3},
    }
    for key, value in changes.items():
        *outer, last = key.split("__")
        place = sections
        for name in outer:
            place = place[name]
        place[last] = value
    return sections


def test_seeds_folders_and_workers_may_differ(tmp_path):
    other = settings(seed_everything=1, run_dir="b", model__pruning__seed=5, data__seed=1, data__num_workers=2)
    runs = [
        make_run(tmp_path / "a", results(0.8, 0.4), settings(), budget=0.25),
        make_run(tmp_path / "b", results(0.8, 0.6), other, budget=0.25),
        make_run(tmp_path / "c", results(0.8, 0.6), settings(model__pruning__budget=0.5), budget=0.5),
    ]
    assert [row[:2] for row in compare(runs).rows] == [["25 % score", "2"], ["50 % score", "1"]]


@pytest.mark.parametrize(
    "change",
    [{"model__pruning__depth": 2}, {"model__lora__r": 8}, {"model__base": "other"}, {"data__path": "other"}],
    ids=lambda change: next(iter(change)),
)
def test_different_experiments_are_not_averaged(change, tmp_path):
    (key, value), first = next(iter(change.items())), settings()
    runs = [
        make_run(tmp_path / "a", results(0.8, 0.4), first, budget=0.25),
        make_run(tmp_path / "b", results(0.8, 0.6), settings(seed_everything=1, **change), budget=0.25),
    ]
    key = key.replace("__", ".")
    old = flatten(first)[key]
    with pytest.raises(UserError) as caught:
        compare(runs)
    error = str(caught.value)
    assert error == (
        f"{runs[1]}: {key} is {value!r}, and {old!r} in {runs[0]}; expected runs that differ in the seed only"
    )


def test_a_folder_without_scores_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"results\.json"):
        compare([tmp_path])


def test_a_run_given_twice_is_refused(tmp_path):
    run = make_run(tmp_path / "a", results(0.8, 0.4), budget=0.25)
    with pytest.raises(UserError, match="twice"):
        compare([run, f"{run}/../a"])
