"""Curves and stability: what is in the files, by the judge's own word; how few samples are too few."""

import pytest
import torch
from toy import toy_batch, toy_llava
from toy_scores import random_scores

from yopo_train.calibration import PlanConfig, calibrate
from yopo_train.calibration.curves import curves, number_of_points
from yopo_train.calibration.judge import OutputJudge
from yopo_train.calibration.stability import half_agreement, jaccard, possible_sizes, stability, too_few
from yopo_train.plan import ModelDims, PruningPlan

GRIDS = [(1, 4, 4)]
BATCHES = [toy_batch([[2, "image", 6], [1, "image", 3]], seed=seed) for seed in range(2)]
DIMS = ModelDims(layers=4, hidden=48, intermediate=56, heads=8, kv_heads=4, head_dim=6)


@pytest.fixture(scope="module")
def judge():
    judge = OutputJudge(toy_llava(2), 3)
    for batch in BATCHES:
        judge.add(batch)
    return judge


@pytest.fixture(scope="module")
def scores(judge):
    return calibrate(judge.model, BATCHES)


def test_curves_are_what_the_judge_says_of_one_choice_alone(judge, scores):
    seen = []
    found = curves(judge, scores, GRIDS, on_evaluation=seen.append)
    assert seen == list(range(1, number_of_points(4) + 1))
    assert (found["samples"], found["answer_tokens"]) == (judge.samples, judge.tokens)
    assert [point["value"] for point in found["depth"]] == [4, 3, 2, 1]
    assert found["depth"][0] == {"value": 4, "kl": 0.0, "agreement": 1.0, "share": 1.0}
    dense = PruningPlan.dense(scores.dims)
    heads, channels = dense.heads.clone(), dense.channels.clone()
    heads[2:], channels[2:] = False, False
    judged = judge(PruningPlan(scores.dims, heads, channels, None, 2))
    assert (found["depth"][2]["kl"], found["depth"][2]["agreement"]) == pytest.approx(judged)
    judged = judge(PruningPlan(scores.dims, dense.heads, dense.channels, 1, 4))
    assert (found["radius"][1]["kl"], found["radius"][1]["value"]) == pytest.approx((judged.kl, 1))
    best = scores.rho.mean(0).argsort(dim=1, descending=True).argsort(dim=1)
    judged = judge(PruningPlan(scores.dims, best < 2, dense.channels, None, 4))
    half = [point for point in found["heads"]["score"] if point["value"] == 0.5]
    assert half[0]["kl"] == pytest.approx(judged.kl) and half[0]["share"] < 1
    for kind in ("heads", "channels"):
        assert set(found[kind]) == {"score", "random", "magnitude", "prefix"}
        for choice, points in found[kind].items():
            draws = [points[start : start + 5] for start in range(0, len(points), 5)]
            assert len(draws) == (3 if choice == "random" else 1)
            assert len({draw[2]["kl"] for draw in draws}) == len(draws)
            for draw in draws:
                shares = [point["share"] for point in draw]
                assert shares == sorted(shares, reverse=True) and draw[0]["kl"] == 0.0


def test_stability_compares_disjoint_parts(judge, scores):
    blocks = [random_scores(scores.dims, samples=8, seed=seed) for seed in range(4)]
    config = PlanConfig(budget=0.3, protected_layers=0, method="auto")
    found = stability(blocks, judge, config, GRIDS)
    assert [entry["samples"] for entry in found["sizes"]] == [8, 16]
    for entry in found["sizes"]:
        assert len(entry["heads_jaccard"]) == len(entry["channels_jaccard"]) == 3 and len(entry["kl"]) == 6
    assert found["enough"] is None  # random scores agree on nothing
    assert found == stability(blocks, judge, config, GRIDS)
    same = stability([blocks[0]] * 4, judge, config, GRIDS)
    assert same["enough"] == 8
    assert {value for entry in same["sizes"] for value in entry["heads_jaccard"]} == {1.0}


def test_sizes_need_two_parts():
    assert [possible_sizes(blocks) for blocks in (0, 1, 2, 5, 32)] == [[], [], [8], [8, 16], [8, 16, 32, 64, 128]]


def test_jaccard():
    first = torch.tensor([True, True, False, False])
    assert jaccard(first, torch.tensor([True, False, True, False])) == pytest.approx(1 / 3)
    assert jaccard(first, first) == 1.0 == jaccard(first & False, first & False)


def test_a_small_set_is_warned_of():
    steady = random_scores(DIMS, samples=8)
    steady.rho[:] = steady.rho[:1]
    assert half_agreement(steady) == 1.0 and too_few(steady) is None
    few = random_scores(DIMS, samples=4)
    assert half_agreement(few) < 0.8
    assert too_few(few).startswith("the calibration set is small: its halves (2 samples each) agree on only")
    assert "one sample has no halves to compare; raise" in too_few(random_scores(DIMS, samples=1))
