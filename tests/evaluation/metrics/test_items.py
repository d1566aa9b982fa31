"""What all metrics do with items: missing, unknown, counted twice, on several ranks; and that they stand alone."""

import ast
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

import yopo_train.evaluation.metrics as metrics
from yopo_train.evaluation.metrics import HEADLINE, METRICS, PROTOCOLS, headline, make_metric
from yopo_train.evaluation.metrics.text import COMMA_MMF, one_line, plain_words, without_punctuation

BOTH = [(name, protocol) for name in METRICS for protocol in PROTOCOLS]
TEXTS = ["yes", "No.", "B", "A. red", "", "woman", "2", None]


def items_of(name, count=16) -> list[dict]:
    """Items of every benchmark, in groups where it has groups."""
    people = [{"answer": "2" if i % 3 else "woman", "answer_id": i} for i in range(10)]
    fields = {
        "gqa": lambda i: {"answer": ["yes", "woman"][i % 2], "types": {"structural": ["query", "verify"][i % 2]}},
        "vqav2": lambda i: {"answers": people, "answer_type": ["number", "other"][i % 2]},
        "textvqa": lambda i: {"answers": [person["answer"] for person in people]},
        "scienceqa": lambda i: {"answer": i % 3, "choices": ["red", "green", "blue"], "image": i % 2 == 0},
        "pope": lambda i: {"answer": ["yes", "no"][i % 2], "category": ["adversarial", "popular", "random"][i % 3]},
        "mme": lambda i: {"answer": ["Yes", "No"][i % 2], "category": ["count", "OCR"][i % 4 // 2], "image": i // 4},
        "mmbench": lambda i: {
            "index": i // 2 + i % 2 * 1_000_000,
            "answer": "AB"[i % 2],
            "options": {"A": "red", "B": "green"},
            "category": ["ocr", "color"][i // 2 % 2],
            "l2_category": "perception",
        },
    }
    return [{"id": f"id-{i}", **fields[name](i)} for i in range(count)]


def predictions_of(count=16) -> list[str | None]:
    return [TEXTS[i * 5 % len(TEXTS)] for i in range(count)]


@pytest.mark.parametrize(("name", "protocol"), BOTH)
def test_batches_and_order_do_not_matter(name, protocol):
    items, predictions = items_of(name), predictions_of()
    at_once = make_metric(name, protocol, items)
    at_once.update(predictions, items)
    scores = at_once.compute()
    assert headline(name, protocol) in scores and HEADLINE[name][protocol] == headline(name, protocol)
    assert all(isinstance(value, float) for value in scores.values()) and json.loads(json.dumps(scores)) == scores

    slowly = make_metric(name, protocol, items)
    slowly.update([], [])
    for place in reversed(range(len(items))):
        slowly.update([predictions[place]], [{"id": items[place]["id"]}])
    assert slowly.compute() == scores
    slowly.reset()
    slowly.update(predictions, items)
    assert slowly.compute() == scores


def score_on_a_rank(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    results = {}
    for name, protocol in BOTH:
        items, predictions = items_of(name), predictions_of()
        mine = [place for place in range(len(items)) if (place % 3 == 0) == (rank == 1)]  # unequal parts, groups apart
        metric = make_metric(name, protocol, items)
        metric.update([predictions[place] for place in mine], [items[place] for place in mine])
        results[f"{name} {protocol}"] = metric.compute()
    (folder / f"{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


def test_two_ranks_give_the_same_numbers_as_one(tmp_path):
    context = torch.multiprocessing.get_context("fork")
    ranks = [context.Process(target=score_on_a_rank, args=(rank, tmp_path)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(240)  # far more than it takes; a rank that waits for a dead one ends here
        process.kill()
    assert [process.exitcode for process in ranks] == [0, 0]
    alone = {}
    for name, protocol in BOTH:
        metric = make_metric(name, protocol, items_of(name))
        metric.update(predictions_of(), items_of(name))
        alone[f"{name} {protocol}"] = metric.compute()
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == alone


@pytest.mark.parametrize(("name", "protocol"), BOTH)
def test_items_without_a_prediction(name, protocol):
    """LLaVA's scripts tolerate them for four benchmarks; all other references need a prediction for every item."""
    items = items_of(name)
    metric = make_metric(name, protocol, items)
    metric.update(["yes"] * 14, items[:14])
    if protocol == "llava" and name in ("vqav2", "scienceqa", "mmbench", "textvqa"):
        scores = metric.compute()
        assert scores.pop("missing") == 2.0
        if name == "textvqa":  # its script never sees them
            shorter = make_metric(name, protocol, items[:14])
            shorter.update(["yes"] * 14, items[:14])
            assert shorter.compute() == scores
    else:
        with pytest.raises(ValueError, match=f"{name}: 2 of 16 items have no prediction, the first is 'id-14'"):
            metric.compute()


def test_a_missing_rotation_makes_its_question_wrong():
    items = items_of("mmbench", 4)
    metric = make_metric("mmbench", "llava", items)
    metric.update(["A", "B", "A"], items[:3])
    assert metric.compute()["accuracy"] == 50.0


def test_nothing_scored():
    metric = make_metric("textvqa", "llava", items_of("textvqa"))
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="16 of 16 items have no prediction"):
        metric.compute()


def test_wrong_use():
    items = items_of("gqa")
    metric = make_metric("gqa", "llava", items)
    with pytest.raises(ValueError, match="gqa: prediction for 'x', which is no item of the benchmark"):
        metric.update(["yes"], [{"id": "x"}])
    with pytest.raises(ValueError, match="longer"):
        metric.update(["yes"], items)
    metric.update(["yes"] * 16, items)
    metric.update(["no"], items[3:4])
    with pytest.raises(ValueError, match="1 items were counted more than once, the first is 'id-3'"):
        metric.compute()


@pytest.mark.parametrize(("name", "changed", "message"), [
    ("gqa", {"id": "id-1"}, "gqa: two items have the id 'id-1'"),
    ("gqa", {"id": 7}, "gqa: item 0 has the id 7, expected text"),
    ("gqa", {"answer": None}, "gqa: item 'id-0' has no answer"),
    ("textvqa", {"answers": None}, "textvqa: item 'id-0' has 0 answers, expected 10"),
    ("textvqa", {"answers": ["x"] * 9}, "textvqa: item 'id-0' has 9 answers, expected 10"),
    ("pope", {"category": None}, "pope: item 'id-0' has no category"),
    ("pope", {"answer": "maybe"}, "pope: item 'id-0' has the answer 'maybe', expected yes or no"),
    ("mme", {"image": "other"}, "mme: 1 questions about image 'other' of category 'count', expected 2"),
    ("mme", {"category": "taste"}, "mme: category 'taste', expected one of existence, count"),
    ("gqa", {"answer": 7}, "gqa: item 'id-0' has the answer 7, expected text"),
    ("scienceqa", {"answer": "A"}, "scienceqa: item 'id-0' has the answer 'A', expected int"),
    ("vqav2", {"answers": ["yes"]}, "vqav2: item 'id-0' has the answer 'yes', expected an object with a text"),
    ("textvqa", {"answers": [7] * 10}, "textvqa: item 'id-0' has the answers .*, expected a list of text"),
    ("mmbench", {"options": None}, "mmbench: item 'id-0' has no options"),
])  # fmt: skip
def test_items_that_cannot_be_scored(name, changed, message):
    first, *rest = items_of(name)
    with pytest.raises(ValueError, match=message):
        make_metric(name, "llava", [first | changed, *rest])


def test_unknown_names():
    with pytest.raises(ValueError, match="benchmark 'mmmu', expected one of gqa, vqav2"):
        make_metric("mmmu", "llava", items_of("gqa"))
    with pytest.raises(ValueError, match="protocol is 'vlmevalkit', expected one of llava, lmms_eval"):
        make_metric("gqa", "vlmevalkit", items_of("gqa"))
    with pytest.raises(ValueError, match="reasoning_tags is for the protocol lmms_eval"):
        make_metric("gqa", "llava", items_of("gqa"), reasoning_tags=True)
    with pytest.raises(ValueError, match="gqa: no items"):
        make_metric("gqa", "llava", [])
    with pytest.raises(ValueError, match="vqav2: no item has answers"):
        make_metric("vqav2", "llava", [{"id": "1"}, {"id": "2", "answers": None}])


def test_mme_counts_other_categories_as_cognition_in_lmms_eval():
    items = [{"id": str(i), "answer": "Yes", "category": "taste", "image": "1"} for i in range(2)]
    metric = make_metric("mme", "lmms_eval", items)
    metric.update(["yes", "yes"], items)
    assert metric.compute()["cognition"] == 200


def test_orphan_rotations_do_not_count():
    items = items_of("mmbench", 4)
    metric = make_metric("mmbench", "llava", items[1:])  # the first question's own row is absent
    metric.update(["B", "A", "A"], items[1:])
    assert metric.compute() == {"accuracy": 0.0, "accuracy/color": 0.0, "accuracy/l2/perception": 0.0}


FIXED = [(make_metric(name, protocol, items_of(name)), protocol) for name, protocol in BOTH]


@settings(max_examples=60, deadline=None)
@given(st.text() | st.text(alphabet="ABCDEyesnoTh awi.,:()'*<think>/0123\n\t\x00İß"))
def test_no_text_breaks_a_metric(text):
    for metric, protocol in FIXED:
        judged = metric.judge(text, metric.references[0])
        assert 0 <= judged["score"] <= 1
        if metric.name in ("pope", "mme") and (protocol == "llava" or metric.name == "mme"):
            assert judged["parsed"] in ("yes", "no", "other")
            assert metric.judge(judged["parsed"], metric.references[0])["parsed"] == judged["parsed"]


@settings(max_examples=100, deadline=None)
@given(st.text() | st.text(alphabet=" a1,.-;'\n\tTheoncvdyS"))
def test_normalising_twice_changes_nothing(text):
    assert one_line(one_line(text)) == one_line(text)
    assert plain_words(plain_words(text)) == plain_words(text)
    if text.count(".") <= 32:  # of more, the references leave some
        once = without_punctuation(text, COMMA_MMF)
        assert without_punctuation(once, COMMA_MMF) == once


def test_the_folder_works_without_the_package(tmp_path, monkeypatch):
    """A copy of it elsewhere imports nothing of the package, and nothing heavier than torch and torchmetrics."""
    shutil.copytree(Path(metrics.__file__).parent, tmp_path / "copied_metrics")
    allowed = {"torch", "torchmetrics", *sys.stdlib_module_names}
    for file in (tmp_path / "copied_metrics").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert {alias.name.partition(".")[0] for alias in node.names} <= allowed, file.name
            elif isinstance(node, ast.ImportFrom):
                inside = node.level == 1
                assert inside or (node.level == 0 and node.module.partition(".")[0] in allowed), file.name
    for absent in ("yopo_train", "transformers", "lightning", "datasets", "peft", "PIL", "numpy"):
        monkeypatch.setitem(sys.modules, absent, None)
    monkeypatch.syspath_prepend(tmp_path)
    import copied_metrics

    items = items_of("pope")
    metric = copied_metrics.make_metric("pope", "llava", items)
    metric.update(["yes"] * 16, items)
    assert metric.compute()["yes_ratio"] == 100.0


def mmbench_row(index, **changes):
    return {"id": str(index), "index": index, "answer": "A", "options": {"A": "red", "B": "blue"}} | changes


@pytest.mark.parametrize("protocol", ["llava", "lmms_eval"])
def test_mmbench_needs_questions_and_options_in_words(protocol):
    with pytest.raises(ValueError, match=r"mmbench: every index is 1000000 or more"):
        make_metric("mmbench", protocol, [mmbench_row(1_000_005)])
    with pytest.raises(ValueError, match=r"mmbench: item '5' has the options \{'A': 3\}, expected text"):
        make_metric("mmbench", protocol, [mmbench_row(5, options={"A": 3})])


def test_odd_labels_are_labels_too():
    """Found when all questions are answered: too late for an error."""
    rows = [mmbench_row(1, category=3), mmbench_row(2, category="ocr")]
    assert set(scores_of("mmbench", rows, "A")) == {"accuracy", "accuracy/3", "accuracy/ocr"}
    rows = [{"id": str(i), "answer": "a", "types": types} for i, types in enumerate([{"structural": 3}, "query", None])]
    assert set(scores_of("gqa", rows, "A")) == {"accuracy", "accuracy/3", "accuracy/binary"}


def scores_of(name, rows, answer):
    metric = make_metric(name, "llava", rows)
    metric.update([answer] * len(rows), rows)
    return metric.compute()
