"""The search for a plan: within the budget, never worse than what it started from, within its evaluations, honest."""

from dataclasses import replace

import pytest
import torch
from toy import VISUAL, toy_batch, toy_llava

from yopo_train.calibration import PlanConfig, calibrate, make_plan
from yopo_train.calibration.judge import OutputJudge
from yopo_train.calibration.judging import search_plan
from yopo_train.cost import Prompt, dense_visual_flops, kv_cache_bytes, prefill_flops, visual_flops
from yopo_train.errors import UserError
from yopo_train.plan import PruningPlan

GRID = (1, 4, 4)
PROMPT = Prompt([GRID], 8, [2])
BATCHES = [toy_batch([[2, "image", 6], [1, "image", 3]], seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def model():
    return toy_llava(2, layers=5)


@pytest.fixture(scope="module")
def scores(model):
    return calibrate(model, BATCHES)


def search(model, scores, **config):
    return search_plan(model, BATCHES, scores, PlanConfig(method="auto", **config), PROMPT, answer_tokens=3)


def judged(model, plan):
    judge = OutputJudge(model, 3)
    for batch in BATCHES:
        judge.add(batch)
    return judge(plan)


@pytest.mark.parametrize("budget", [0.3, 0.15])
def test_the_plan_is_within_the_budget_and_no_uniform_plan_is_better(model, scores, budget):
    plan, _ = search(model, scores, budget=budget)
    base = dense_visual_flops(scores.dims, VISUAL)
    assert visual_flops(plan, [GRID]) <= budget * base
    assert plan.cost["visual_share"] == pytest.approx(visual_flops(plan, [GRID]) / base)
    found = judged(model, plan)
    assert found == pytest.approx((plan.made_by["kl"], plan.made_by["agreement"]), rel=1e-4)
    uniform = make_plan(scores, PlanConfig(budget=budget), PROMPT)
    assert found.kl <= judged(model, uniform).kl
    assert plan.made_by["scores"] == scores.id and plan.made_by["method"] == "auto"


def test_the_trace_tells_every_plan(model, scores):
    plan, trace = search(model, scores, budget=0.3)
    entries = trace["trace"]
    assert trace["chosen"] == plan.id and trace["evaluations"] <= 250 and trace["samples"] == 6
    assert [entry["step"] for entry in entries] == list(range(len(entries)))
    assert {"depth", "grid", "heads", "channels", "radius"} == {entry["stage"] for entry in entries}
    fitting = [entry for entry in entries if entry["cost"] <= 0.3]
    assert min(fitting, key=lambda entry: entry["kl"])["plan"] == plan.id
    depths = [entry for entry in entries if entry["stage"] == "depth"]
    assert depths[0]["kl"] == 0.0 and depths[0]["depth"] == 5  # nothing pruned


@pytest.mark.parametrize("evaluations", [1, 2, 5, 12, 40, 80])
def test_it_ends_when_its_evaluations_are_spent(model, scores, evaluations):
    plan, trace = search(model, scores, budget=0.3, evaluations=evaluations)
    assert trace["evaluations"] <= max(evaluations, 2)
    assert plan.cost["visual_share"] <= 0.3


def test_a_budget_of_one_prunes_nothing(model, scores):
    plan, trace = search(model, scores, budget=1.0, evaluations=5)
    assert plan.is_dense and plan.made_by["kl"] == 0.0 and trace["chosen"] == plan.id


@pytest.mark.parametrize("measure", ["prefill_flops", "kv_bytes"])
def test_other_measures(model, scores, measure):
    plan, _ = search(model, scores, budget=0.6, measure=measure, evaluations=40)
    count = {"prefill_flops": prefill_flops, "kv_bytes": kv_cache_bytes}[measure]
    assert count(plan, PROMPT) <= 0.6 * count(PruningPlan.dense(scores.dims), PROMPT)


@pytest.mark.parametrize("without", ["heads", "channels", "neighbor", "depth"])
def test_a_mechanism_left_out_stays_as_in_the_base_model(model, scores, without):
    mechanisms = [name for name in ("heads", "channels", "neighbor", "depth") if name != without]
    plan, _ = search(model, scores, budget=0.5, mechanisms=mechanisms, evaluations=60)
    visual = slice(0, plan.depth)
    untouched = {
        "heads": plan.heads[visual].all(),
        "channels": plan.channels[visual].all(),
        "neighbor": plan.radius is None,
        "depth": plan.depth == 5,
    }
    assert untouched[without] and plan.cost["visual_share"] <= 0.5


def test_depth_and_radius_can_be_given(model, scores):
    plan, trace = search(model, scores, budget=0.3, depth=3, radius=1, evaluations=60)
    assert (plan.depth, plan.radius) == (3, 1)
    assert "radius" not in {entry["stage"] for entry in trace["trace"]}


def test_controls_are_searched_without_asking_which_heads_are_missed(model, scores):
    plans = [search(model, scores, budget=0.3, choice="random", seed=seed) for seed in (0, 0, 1)]
    assert plans[0][0].id == plans[1][0].id != plans[2][0].id
    assert "heads" not in {entry["stage"] for entry in plans[0][1]["trace"]}
    best, _ = search(model, scores, budget=0.3)
    assert best.made_by["kl"] < min(plan.made_by["kl"] for plan, _ in plans)


def test_a_budget_that_no_plan_meets_names_the_smallest(model, scores):
    config = {"mechanisms": ["heads", "neighbor"]}
    with pytest.raises(UserError, match="the smallest possible here") as caught:
        search(model, scores, budget=0.01, **config)
    smallest = float(str(caught.value).split("at least ")[1].split(",")[0])
    plan, _ = search(model, scores, budget=smallest, evaluations=30, **config)
    assert plan.cost["visual_share"] <= smallest


def test_it_finds_the_one_head_that_matters():
    """A head with a low head ratio that alone writes what it reads: the search keeps it where the score drops it."""
    model = toy_llava(4, layers=5, seed=3)
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            layer.self_attn.o_proj.weight[:, 12:] = 0.0  # head 0 alone writes
    measured = calibrate(model, BATCHES)
    measured.rho[:, :, 0] = 0.0  # as if it never looked at the image
    config = {"budget": 0.2, "mechanisms": ["heads", "depth", "neighbor"], "protected_layers": 0}
    plan, _ = search_plan(model, BATCHES, measured, PlanConfig(method="auto", **config), PROMPT, answer_tokens=3)
    uniform = make_plan(measured, replace(PlanConfig(**config), depth=plan.depth), PROMPT)
    assert plan.heads[: plan.depth, 0].float().mean() > uniform.heads[: plan.depth, 0].float().mean()
