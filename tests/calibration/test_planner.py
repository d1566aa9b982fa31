"""Plans for a budget: met, not wasted, each mechanism alone, every choice, bad configurations."""

import importlib.util
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_scores import random_scores

from yopo_train.calibration import PlanConfig, make_plan
from yopo_train.cost import Prompt, kv_cache_bytes, prefill_flops, visual_flops
from yopo_train.errors import UserError
from yopo_train.head_masks import write_head_mask
from yopo_train.plan import ModelDims, PruningPlan

TINY = ModelDims(layers=8, hidden=128, intermediate=384, heads=8, kv_heads=8, head_dim=16)
LLAVA_7B = ModelDims(layers=32, hidden=4096, intermediate=11008, heads=32, kv_heads=32, head_dim=128)
QWEN_7B = ModelDims(layers=28, hidden=3584, intermediate=18944, heads=28, kv_heads=4, head_dim=128)
GRIDS = [(1, 12, 12)]
SCORES = {dims: random_scores(dims, samples=3) for dims in (TINY, LLAVA_7B, QWEN_7B)}


def share(plan: PruningPlan, grids=GRIDS) -> float:
    return visual_flops(plan, grids) / visual_flops(PruningPlan.dense(plan.dims), grids)


def with_more_channels(plan: PruningPlan) -> PruningPlan | None:
    """One more channel in every visual layer; None where all are active."""
    if plan.channels[: plan.depth].all():
        return None
    channels = plan.channels.clone()
    for row in channels[: plan.depth]:
        row[(~row).nonzero()[0]] = True
    return PruningPlan(plan.dims, plan.heads, channels, plan.radius, plan.depth)


@pytest.mark.parametrize("dims", SCORES, ids=["tiny", "llava-7b", "qwen-7b"])
@pytest.mark.parametrize(("preset", "budget"), [("paper-25", 0.25), ("paper-12", 0.12)])
def test_presets_use_the_budget_up(dims, preset, budget):
    plan = make_plan(SCORES[dims], PlanConfig(preset=preset), GRIDS)
    assert 0.99 * budget < share(plan) <= budget < share(with_more_channels(plan))
    assert (plan.depth, plan.radius) == (dims.layers // 2, 3)
    protected = min(2, plan.depth // 4)
    assert plan.heads[:protected].all()
    heads, channels = plan.heads[protected : plan.depth].sum(dim=1), plan.channels[: plan.depth].sum(dim=1)
    assert heads.unique().numel() == channels.unique().numel() == 1
    assert heads[0] == dims.heads * {"paper-25": 0.5, "paper-12": 0.25}[preset] and 0 < channels[0] < dims.intermediate
    assert plan.cost["visual_share"] == pytest.approx(share(plan)) and plan.cost["grids"] == [[1, 12, 12]]
    assert plan.made_by["preset"] == preset and plan.made_by["budget"] == budget
    assert plan.made_by["scores"] == SCORES[dims].id and plan.base_model == "org/model"


@given(
    st.floats(0.1, 1),
    st.integers(0, 8),
    st.none() | st.integers(0, 12),
    st.sampled_from(["score", "random", "magnitude", "prefix"]),
    st.sampled_from(list(SCORES)),
)
@settings(max_examples=40, deadline=None)
def test_budgets_are_met_and_used_up(budget, depth, radius, choice, dims):
    config = PlanConfig(budget=budget, depth=depth or None, radius=radius, choice=choice)
    try:
        plan = make_plan(SCORES[dims], config, GRIDS)
    except UserError as error:
        assert "the smallest possible" in str(error)
        return
    assert share(plan) <= budget
    more = with_more_channels(plan)
    if more is not None:
        assert share(more) > budget
    elif not depth and not plan.heads[: plan.depth].all():
        assert share(plan) > 0.85 * budget  # all channels of all layers: only single heads are left to add


def test_the_papers_quarter_of_the_heads_is_an_eighth_of_the_cache():
    plan = make_plan(LLAVA_7B, PlanConfig(preset="paper-12", choice="random", protected_layers=0), [(1, 24, 24)])
    cached = kv_cache_bytes(plan, Prompt([(1, 24, 24)], 0), 2)
    assert cached == kv_cache_bytes(PruningPlan.dense(LLAVA_7B), Prompt([(1, 24, 24)], 0), 2) / 8
    assert plan.channels[:16].float().mean() == pytest.approx(0.26, abs=0.01)  # the last visual layer pays for 1 %


def test_the_best_by_score_stay():
    scores = SCORES[TINY]
    plan = make_plan(scores, PlanConfig(budget=0.2, protected_layers=0), GRIDS)
    for layer in range(plan.depth):
        for mask, values in ((plan.heads, scores.rho.mean(dim=0)), (plan.channels, scores.channels)):
            kept, dropped = values[layer][mask[layer]], values[layer][~mask[layer]]
            assert kept.min() >= dropped.max()


def test_controls():
    def masks(**kwargs) -> torch.Tensor:
        plan = make_plan(SCORES[TINY], PlanConfig(budget=0.2, protected_layers=0, **kwargs), GRIDS)
        return torch.cat([plan.heads, plan.channels], dim=1)

    random = [masks(choice="random", seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(random[0], random[1]) and not torch.equal(random[0], random[2])
    prefix, score, magnitude = (masks(choice=choice) for choice in ("prefix", "score", "magnitude"))
    assert (prefix[:, 8:].int().diff(dim=1) <= 0).all() and (prefix[:, :8].int().diff(dim=1) <= 0).all()
    assert len({tuple(mask.flatten().tolist()) for mask in (prefix, score, magnitude, random[0])}) == 4
    assert len({tuple(mask.sum(dim=1).tolist()) for mask in (prefix, score, magnitude, random[0])}) == 1


@pytest.mark.parametrize("mechanism", ["heads", "channels", "neighbor", "depth"])
@pytest.mark.parametrize("dims", SCORES, ids=["tiny", "llava-7b", "qwen-7b"])
def test_each_mechanism_alone(dims, mechanism):
    budget = {"heads": 0.9, "channels": 0.7, "neighbor": 0.99, "depth": 0.4}[mechanism]
    plan = make_plan(SCORES[dims], PlanConfig(budget=budget, mechanisms=[mechanism]), GRIDS)
    assert share(plan) <= budget
    visual = slice(0, plan.depth)
    assert (plan.depth < dims.layers) == (mechanism == "depth")
    assert (plan.radius is not None) == (mechanism == "neighbor")
    assert (not plan.heads[visual].all()) == (mechanism == "heads")
    assert (not plan.channels[visual].all()) == (mechanism == "channels")


@pytest.mark.parametrize("without", ["heads", "channels", "neighbor", "depth"])
@pytest.mark.parametrize("preset", ["paper-25", "paper-12"])
@pytest.mark.parametrize("dims", SCORES, ids=["tiny", "llava-7b", "qwen-7b"])
def test_each_mechanism_switched_off_leaves_the_budget_to_the_others(dims, preset, without):
    mechanisms = [name for name in ("heads", "channels", "neighbor", "depth") if name != without]
    plan = make_plan(SCORES[dims], PlanConfig(preset=preset, mechanisms=mechanisms, protected_layers=0), GRIDS)
    budget = 0.25 if preset == "paper-25" else 0.12
    assert 0.7 * budget < share(plan) <= budget


def test_a_budget_of_one_prunes_nothing():
    assert make_plan(SCORES[TINY], PlanConfig(budget=1.0), GRIDS).is_dense


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, r"model.pruning.budget is null, expected a share in \(0, 1\]"),
        ({"budget": 0.0}, r"model.pruning.budget is 0.0, expected a share of the cost in \(0, 1\]"),
        ({"budget": 1.5}, "model.pruning.budget is 1.5"),
        ({"budget": float("nan")}, "model.pruning.budget is nan"),
        ({"budget": "half"}, "model.pruning.budget is half"),
        ({"budget": 0.2, "preset": "paper-25"}, "model.pruning.budget is 0.2, expected null beside"),
        ({"preset": "paper-50"}, "model.pruning.preset is paper-50, expected one of paper-25, paper-12"),
        ({"budget": 0.2, "depth": 0}, "model.pruning.depth is 0, expected an integer >= 1"),
        ({"budget": 0.2, "depth": 9}, r"model.pruning.depth is 9, expected at most the model's number of layers \(8\)"),
        ({"budget": 0.2, "radius": -1}, "model.pruning.radius is -1"),
        ({"budget": 0.2, "choice": "best"}, "model.pruning.choice is best, expected one of score, vote, random"),
        ({"budget": 0.2, "method": "best"}, "model.pruning.method is best, expected one of uniform, auto"),
        ({"budget": 0.2, "measure": "time"}, "model.pruning.measure is time, expected one of visual_flops, prefill"),
        ({"budget": 0.2, "method": "auto", "choice": "vote"}, "model.pruning.choice is vote, expected another with"),
        ({"budget": 0.2, "method": "auto"}, "model.pruning.method is auto, expected uniform here"),
        ({"budget": 0.2, "evaluations": 0}, "model.pruning.evaluations is 0, expected an integer >= 1"),
        ({"budget": 0.2, "threshold": 0.1}, "model.pruning.threshold is 0.1, expected null unless"),
        (
            {"budget": 0.2, "choice": "vote", "threshold": -1.0},
            "model.pruning.threshold is -1.0, expected a head ratio",
        ),
        ({"budget": 0.2, "choice": "vote", "vote_share": 1.0}, "model.pruning.vote_share is 1.0, expected a share in"),
        ({"budget": 0.2, "head_mask": "a.npy", "choice": "random"}, "model.pruning.head_mask is a.npy, expected null"),
        ({"budget": 0.2, "head_mask": "nowhere.npy"}, "nowhere.npy: there is no such file, expected a head mask"),
        ({"budget": 0.2, "mechanisms": []}, r"model.pruning.mechanisms is \[\], expected a list of at least one"),
        ({"budget": 0.2, "mechanisms": "heads"}, "model.pruning.mechanisms is heads, expected a list"),
        ({"budget": 0.2, "protected_layers": -1}, "model.pruning.protected_layers is -1, expected an integer >= 0"),
        ({"budget": 0.2, "mechanisms": ["layers"]}, "model.pruning.mechanisms is layers"),
        ({"budget": 0.2, "mechanisms": ["heads"], "depth": 4}, "model.pruning.depth is 4, expected null"),
        ({"budget": 0.2, "mechanisms": ["heads"], "radius": 4}, "model.pruning.radius is 4, expected null"),
        ({"budget": 0.2, "mechanisms": ["neighbor"]}, "model.pruning.budget is 0.2, expected at least 0.7946"),
        ({"preset": "paper-12", "mechanisms": ["heads"]}, r"0.12 \(preset paper-12\), expected at least 0.6"),
    ],
)
def test_bad_configurations_are_refused(config, message):
    with pytest.raises(UserError, match=message):
        make_plan(SCORES[TINY], PlanConfig(**config), GRIDS)


@pytest.mark.parametrize("choice", ["random", "prefix"])
def test_dimensions_are_enough_where_no_score_is_asked(choice):
    config = PlanConfig(preset="paper-25", choice=choice)
    plan = make_plan(TINY, config, GRIDS)
    assert plan.id == make_plan(SCORES[TINY], config, GRIDS).id
    assert plan.base_model is None and "scores" not in plan.made_by


@pytest.mark.parametrize("choice", ["score", "magnitude"])
def test_dimensions_are_not_enough_for_scores(choice):
    with pytest.raises(UserError, match=f"model.pruning.choice is {choice}, expected random or prefix"):
        make_plan(TINY, PlanConfig(preset="paper-25", choice=choice), GRIDS)


def test_the_smallest_possible_budget_is_possible():
    config = {"mechanisms": ["heads", "neighbor"]}
    with pytest.raises(UserError) as caught:
        make_plan(SCORES[TINY], PlanConfig(budget=0.01, **config), GRIDS)
    smallest = float(str(caught.value).split("at least ")[1].split(",")[0])
    assert share(make_plan(SCORES[TINY], PlanConfig(budget=smallest, **config), GRIDS)) <= smallest


def test_no_images_to_plan_for():
    with pytest.raises(UserError, match="no grid given"):
        make_plan(SCORES[TINY], PlanConfig(budget=0.5), [])


@pytest.mark.parametrize("measure", ["prefill_flops", "kv_bytes"])
@pytest.mark.parametrize("dims", SCORES, ids=["tiny", "llava-7b", "qwen-7b"])
def test_budgets_of_other_measures_are_met(dims, measure):
    prompt, dense = Prompt(GRIDS, 40), PruningPlan.dense(dims)
    config = PlanConfig(budget=0.5, measure=measure, protected_layers=0)
    plan = make_plan(SCORES[dims], config, prompt)
    count = {
        "prefill_flops": lambda plan: prefill_flops(plan, prompt),
        "kv_bytes": lambda plan: kv_cache_bytes(plan, prompt),
    }
    found = count[measure](plan) / count[measure](dense)
    assert 0.8 * 0.5 < found <= 0.5
    assert plan.cost["measure"] == measure and plan.cost["share"] == pytest.approx(found)
    assert plan.cost["visual_share"] == pytest.approx(share(plan))
    with pytest.raises(UserError, match="the smallest possible"):  # the text alone costs more
        make_plan(SCORES[dims], replace(config, budget=0.1), prompt)


def test_heads_stay_by_majority_vote_over_a_threshold():
    """As in the authors' scripts: a head stays if more than 40 of 100 samples have a ratio above the threshold."""
    scores = random_scores(TINY, samples=10, seed=1)
    config = PlanConfig(budget=0.3, choice="vote", threshold=0.6, depth=5, protected_layers=1)
    plan = make_plan(scores, config, GRIDS)
    for layer in range(1, 5):
        for head in range(TINY.heads):
            votes = sum(float(scores.rho[sample, layer, head]) > 0.6 for sample in range(10))
            assert bool(plan.heads[layer, head]) == (votes > 4)
    assert plan.heads[0].all() and not plan.heads[5:].any()
    assert 0.99 * 0.3 < share(plan) <= 0.3


@pytest.mark.parametrize(
    ("preset", "budget", "threshold"),
    [
        ("paper-qwen2-vl-7b", 0.69, 0.07),
        ("paper-internvl2-4b", 0.72, 0.08),
        ("paper-internvl2-8b", 0.75, 0.11),
        ("paper-internvl2-26b", 0.5, 0.052),
    ],
)
def test_presets_of_other_models_vote(preset, budget, threshold):
    scores = random_scores(QWEN_7B, samples=10)
    scores.rho.mul_(2 * threshold)  # random ratios, half of them above the threshold
    plan = make_plan(scores, PlanConfig(preset=preset, protected_layers=0), GRIDS)
    votes = (scores.rho > threshold).sum(dim=0) > 4
    assert torch.equal(plan.heads[: plan.depth], votes[: plan.depth])
    assert 0.9 * budget < share(plan) <= budget


@pytest.mark.parametrize("suffix", [".npy", ".pth"])
def test_head_masks_of_the_authors_come_and_go(tmp_path, suffix):
    plan = make_plan(SCORES[TINY], PlanConfig(budget=0.3, depth=8), GRIDS)
    file = tmp_path / f"mask{suffix}"
    write_head_mask(file, plan)
    with pytest.raises(UserError, match="there is such a file already"):
        write_head_mask(file, plan)
    again = make_plan(SCORES[TINY], PlanConfig(budget=0.3, depth=8, head_mask=str(file)), GRIDS)
    assert torch.equal(again.heads, plan.heads)
    assert again.made_by["head_mask"] == str(file)
    with pytest.raises(UserError, match=r"mask has shape \(8, 8\), expected \(32, 32\)"):
        make_plan(SCORES[LLAVA_7B], PlanConfig(budget=0.3, head_mask=str(file)), GRIDS)


@pytest.mark.skipif(not importlib.util.find_spec("jsonargparse"), reason="the command line needs jsonargparse")
def test_the_configuration_is_a_yaml_section():
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--pruning", type=PlanConfig | None)
    parsed = parser.parse_args(["--pruning.preset=paper-12", "--pruning.mechanisms=[heads, depth]"])
    expected = PlanConfig(preset="paper-12", mechanisms=["heads", "depth"])
    assert parser.instantiate(parsed).pruning == expected
