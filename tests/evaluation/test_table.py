"""The table of benchmark scores, and what others have published beside it."""

import pytest

from yopo_train.evaluation.benchmarks import BENCHMARKS
from yopo_train.evaluation.published import PUBLISHED, Published
from yopo_train.evaluation.table import TITLES, benchmark_cells, benchmark_notes
from yopo_train.summary import benchmark_table

BASE = "llava-hf/llava-1.5-7b-hf"


def result(
    score: float | None, name: str, protocol: str = "llava", model: str = BASE, items: int = 12_578, **asked
) -> dict:
    whole = {"limit": None, "split": None, "max_new_tokens": None}
    found = {"score": score, "headline": name, "protocol": protocol, "items": items, "model": model}
    return found | {"asked": whole | asked}


def test_benchmarks_are_columns_in_the_paper_s_order_and_stages_rows():
    assert list(TITLES) == list(BENCHMARKS)
    scores = {
        "recovered": {"pope": result(84.0, "f1_mean", model="mine")},
        "base": {"mme": result(1500.26, "perception", model="mine"), "pope": result(85.94, "f1_mean", model="mine")},
    }
    assert benchmark_cells(scores) == (
        ["", "POPE", "MME"],
        [["base", "85.9", "1500.3"], ["recovered", "84.0", "-"]],
    )
    assert "| recovered | 84.0 |      - |" in benchmark_table({"benchmarks": scores}, None).markdown()
    assert benchmark_table({}, None) is None
    (note,) = benchmark_notes(scores)
    assert note == "- benchmarks, protocol llava: POPE f1_mean of 12578 items, MME perception of 12578 items"


def test_published_numbers_stand_beside_the_same_model():
    scores = {"base": {"pope": result(85.0, "f1_mean"), "gqa": result(60.0, "accuracy")}}
    headers, rows = benchmark_cells(scores)
    assert headers == ["", "GQA", "POPE"]
    assert rows == [["base", "60.0", "85.0"], ["base, published", "62.0", "85.9"]]
    assert benchmark_notes(scores)[1] == "- published: LLaVA, docs/MODEL_ZOO.md"


@pytest.mark.parametrize(
    "other",
    [
        {"limit": 10},
        {"split": "val"},
        {"max_new_tokens": 4},
        {"protocol": "lmms_eval"},
        {"model": "mine"},
        {"items": 18},  # the samples that ship
    ],
    ids=lambda other: next(iter(other)),
)
def test_only_whole_benchmarks_under_the_same_rules_are_compared(other):
    _, rows = benchmark_cells({"base": {"pope": result(85.0, "f1_mean", **other)}})
    assert rows == [["base", "85.0"]]
    mixed = {"base": {"pope": result(85.0, "f1_mean", **other), "gqa": result(60.0, "accuracy")}}
    if "model" not in other:
        assert benchmark_cells(mixed)[1][1] == ["base, published", "62.0", "-"]


def test_numbers_of_vqav2_s_server_stand_beside_nothing():
    """LLaVA's 78.5 are of test-dev; what can be scored here is validation."""
    scores = {"base": {"vqav2": result(76.0, "accuracy", items=214_354), "gqa": result(60.0, "accuracy")}}
    assert benchmark_cells(scores)[1] == [["base", "60.0", "76.0"], ["base, published", "62.0", "-"]]


def test_pruned_rows_need_the_same_budget(monkeypatch):
    row = Published(BASE, "recovered", 0.25, "a paper", {"pope": 84.5})
    monkeypatch.setattr("yopo_train.evaluation.published.PUBLISHED", (*PUBLISHED, row))
    scores = {"recovered": {"pope": result(84.0, "f1_mean")}}
    assert benchmark_cells(scores, 0.25)[1] == [["recovered", "84.0"], ["recovered, published", "84.5"]]
    assert benchmark_cells(scores, 0.12)[1] == benchmark_cells(scores)[1] == [["recovered", "84.0"]]


def test_lmms_eval_s_shares_and_missing_scores():
    scores = {"base": {"gqa": result(0.61234, "accuracy", "lmms_eval"), "vqav2": result(None, None)}}
    assert benchmark_cells(scores)[1] == [["base", "0.6123", "-"]]
    assert "VQAv2 without public answers of 12578 items" in benchmark_notes(scores)[0]
