"""A plan in the terminal."""

import io

import numpy as np
import pytest
import torch
from rich.console import Console
from toy_scores import random_scores

from yopo_train.calibration import PlanConfig
from yopo_train.calibration import make_plan as make_uniform_plan
from yopo_train.cli import main
from yopo_train.cost import dense_visual_flops, visual_flops
from yopo_train.head_masks import read_head_mask
from yopo_train.plan import ModelDims, PruningPlan
from yopo_train.report.facts import layer_note, layer_table, plan_facts
from yopo_train.report.show import show_plan

DIMS = ModelDims(layers=4, hidden=32, intermediate=48, heads=4, kv_heads=2, head_dim=8)
GRIDS = [[1, 6, 5], [2, 3, 3]]


def make_plan(depth: int = 3) -> PruningPlan:
    heads = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 0], [1, 0, 0, 1], [0, 1, 0, 0]], dtype=torch.bool)
    channels = torch.arange(48).expand(4, 48) < torch.tensor([48, 12, 0, 5])[:, None]
    heads[depth:], channels[depth:] = False, False
    return PruningPlan(
        DIMS, heads, channels, 1, depth, "org/[red]model", "abc", {"preset": "paper-25", "seed": None}, {"grids": GRIDS}
    )


def shown(plan: PruningPlan, tmp_path, **options) -> str:
    plan.save(tmp_path / "plan.safetensors")
    stream = io.StringIO()
    show_plan(tmp_path / "plan.safetensors", Console(file=stream, width=160, **options))
    return stream.getvalue()


def test_the_layers_of_a_plan():
    rows = layer_table(make_plan()).rows
    assert [row[:5] for row in rows] == [
        ["0", "●●●●", "4/4", "2/2", "48/48"],
        ["1", "○○●○", "1/4", "1/2", "12/48"],
        ["2", "●○○●", "2/4", "2/2", "0/48"],
        ["3", "text only", "0/4", "0/2", "0/48"],
    ]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_costs_of_the_layers_add_up(depth):
    plan = make_plan(depth)
    grids = [tuple(grid) for grid in GRIDS]
    share = visual_flops(plan, grids) / dense_visual_flops(DIMS, 48)
    found = sum(float(row[-1].removesuffix(" %")) for row in layer_table(plan).rows)
    assert found / 100 / DIMS.layers == pytest.approx(share, abs=5e-4)


def test_a_plan_that_prunes_nothing():
    rows = layer_table(PruningPlan.dense(DIMS)).rows
    assert [row[-1] for row in rows] == ["100.0 %"] * 4
    assert "100.0 % of the base model's visual FLOPs" in dict(plan_facts(PruningPlan.dense(DIMS)))["predicted cost"]


def test_layers_behind_the_depth_are_one_row():
    assert [row[0] for row in layer_table(make_plan(1)).rows] == ["0", "1-3"]
    assert [row[0] for row in layer_table(make_plan(0)).rows] == ["0-3"]


def test_facts():
    facts = dict(plan_facts(make_plan()))
    assert facts["base model"] == "org/[red]model at abc"
    assert facts["visual depth"] == "3 of 4 layers"
    assert facts["neighbor radius"] == "1 (a window of 3 tokens)"
    assert facts["made by"] == "preset paper-25" and "measured on" not in facts
    assert "images of 6 x 5, 2 x 3 x 3 tokens" in layer_note(make_plan())


def test_a_plan_is_traced_to_its_calibration():
    plan = make_plan()
    plan.made_by = {
        "channel_ratio": 0.123456,
        "data_fingerprint": "vqa f00",
        "budget": 0.2,
        "samples": 8,
        "scores": "ab",
    }
    facts = dict(plan_facts(plan))
    assert facts["made by"] == "budget 0.2, channel_ratio 0.1235"
    assert facts["measured on"] == "scores ab, 8 samples, vqa f00"
    plan.made_by = {}
    assert dict(plan_facts(plan))["made by"] == "not recorded"


@pytest.mark.parametrize("cost", [{}, {"grids": "all"}, {"grids": [[1, 2]]}, {"grids": [[1, 0, 3]]}, [3]])
def test_a_plan_without_a_prompt(cost):
    plan = make_plan()
    plan.cost = cost
    assert "assumed" in layer_note(plan) and "assumed" in dict(plan_facts(plan))["predicted cost"]


def test_the_budgets_own_measure_is_named():
    plan = make_plan()
    plan.cost |= {"measure": "kv_bytes", "share": 0.3}
    assert "30.0 % of its KV cache" in dict(plan_facts(plan))["predicted cost"]


def test_what_others_wrote_is_shown_as_it_is(tmp_path):
    plan = make_plan()
    plan.made_by = {"\x1b[31m": "a\nb"}
    text = shown(plan, tmp_path)
    assert "org/[red]model" in text and "\x1b" not in text and "a?b" in text


def test_many_heads_take_several_lines(tmp_path):
    plan = PruningPlan.dense(ModelDims(layers=2, hidden=64, intermediate=48, heads=128, kv_heads=2, head_dim=8))
    plan.save(tmp_path / "plan.safetensors")
    stream = io.StringIO()
    show_plan(tmp_path / "plan.safetensors", Console(file=stream, width=80))
    text = stream.getvalue()
    assert text.count("●") == 256 and text.count("128/128") == 2
    assert max(map(len, text.splitlines())) <= 80


def test_a_terminal_without_unicode(tmp_path, monkeypatch):
    plan = make_plan()
    plan.save(tmp_path / "plan.safetensors")
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    show_plan(tmp_path / "plan.safetensors", Console(file=stream, width=120))
    stream.flush()
    assert b"..#." in stream.buffer.getvalue()


@pytest.mark.parametrize("place", ["plan.safetensors", "."])
def test_the_command_takes_a_file_or_a_run(place, tmp_path, capsys):
    make_plan().save(tmp_path / "plan.safetensors")
    assert main(["plan", "show", str(tmp_path / place)]) == 0
    text = capsys.readouterr().out
    assert make_plan().id in text and "○○●○" in text and "text only" in text


@pytest.mark.parametrize("suffix", [".npy", ".pth", ".pt"])
def test_its_heads_go_to_the_authors_scripts_and_come_back(suffix, tmp_path, capsys):
    plan, mask = make_plan(), tmp_path / f"heads{suffix}"
    plan.save(tmp_path / "plan.safetensors")
    assert main(["plan", "show", str(tmp_path), "--heads", str(mask)]) == 0
    assert plan.id in capsys.readouterr().out
    assert torch.equal(read_head_mask(mask, DIMS), plan.heads)
    loaded = np.load(mask) if suffix == ".npy" else torch.load(mask, weights_only=True).numpy()
    assert loaded.dtype == np.float32 and loaded.tolist() == plan.heads.float().tolist()
    uniform = make_uniform_plan(DIMS, PlanConfig(budget=0.5, choice="prefix", depth=3), GRIDS)
    config = PlanConfig(budget=0.5, depth=3, head_mask=str(mask))
    again = make_uniform_plan(random_scores(DIMS), config, GRIDS)
    assert torch.equal(again.heads, plan.heads) and not torch.equal(uniform.heads, plan.heads)


def test_a_head_mask_that_is_there_is_never_overwritten(tmp_path, capsys):
    make_plan().save(tmp_path / "plan.safetensors")
    for name, culprit in (("heads.npy", "there is such a file already"), ("heads.csv", "a head mask is a file of")):
        (tmp_path / name).write_bytes(b"mine")
        assert main(["plan", "show", str(tmp_path), "--heads", str(tmp_path / name)]) == 2
        printed = capsys.readouterr()
        assert culprit in printed.err and len(printed.err.splitlines()) == 1 and not printed.out
        assert (tmp_path / name).read_bytes() == b"mine"
    assert main(["plan", "show", str(tmp_path), "--heads", str(tmp_path / "heads.csv" / "a.npy")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert {file.name for file in tmp_path.iterdir()} == {"plan.safetensors", "heads.npy", "heads.csv"}


def test_bad_files_are_one_line(run, tmp_path, capsys):
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    (tmp_path / "empty").mkdir()
    cases = {
        "none.safetensors": "no such file",
        "bad.safetensors": "not a readable safetensors file",
        "run/scores.safetensors": "holds scores, expected a plan file",
        "empty": "plan.safetensors: no such file",
    }
    for name, culprit in cases.items():
        assert main(["plan", "show", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err.splitlines()
        assert len(error) == 1 and culprit in error[0], error
    assert main(["plan", "show"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
