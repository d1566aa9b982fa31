"""Where the two protocols differ, after the tables "Differences that bite" of BENCHMARKS.md."""

import pytest

from yopo_train.evaluation.metrics import METRICS, PROTOCOLS, headline, make_metric
from yopo_train.evaluation.metrics.text import without_reasoning

YES_BY_TEN = {"answers": [{"answer": "yes", "answer_id": i} for i in range(10)]}
ANONYMOUS = {"answers": [{"answer": "yes"}] * 10}
PEOPLE = {"answers": [{"answer": text, "answer_id": i} for i, text in enumerate(["red white"] * 9 + ["blue"])]}
T_SHIRT = {"answers": [{"answer": "t-shirt", "answer_id": i} for i in range(10)]}
MANS = {"answers": [{"answer": "man's", "answer_id": i} for i in range(9)] + [{"answer": "x", "answer_id": 9}]}
CHOICES = {"choices": ["red", "green", "blue"], "answer": 1}
POPE = {"answer": "yes", "category": "random"}
NO = {"answer": "no", "category": "random"}
MME = {"answer": "Yes", "category": "count", "image": "1.jpg"}
COLOURS = {"A": "red", "B": "green", "C": "blue", "D": "yellow"}
THREE = {"A": "cat", "B": "dog", "C": "banana"}

CASES = [  # benchmark, prediction, reference, llava, lmms_eval
    *(("gqa", text, {"answer": "woman"}, 0, 1) for text in ("(woman)", "woman,", "woman!")),
    ("gqa", "tshirt", {"answer": "t-shirt"}, 0, 1),
    ("gqa", "3.5", {"answer": "35"}, 0, 1),
    ("gqa", "Woman..", {"answer": "woman"}, 1, 1),
    ("gqa", "woman .", {"answer": "woman"}, 0, 0),
    ("gqa", "woman", {"answer": "Woman"}, 0, 1),  # LLaVA lower-cases the prediction only
    ("gqa", "", {"answer": "woman"}, 0, 0),
    ("vqav2", "Yes", YES_BY_TEN, 1, 1),
    ("vqav2", "t-shirt", T_SHIRT, 0, 1),  # uploaded as "t shirt", and ten same answers are compared raw
    ("vqav2", "red,white", PEOPLE, 0, 1),  # uploaded as "redwhite"
    ("vqav2", "man's", MANS, 0, 1),  # uploaded as "man 's"
    ("vqav2", "yes", ANONYMOUS, 0, 0),  # equal records exclude one another
    ("textvqa", "Red, White", {"answers": ["red white"] * 10}, 1, 1),
    ("textvqa", "a", {"answers": ["the"] * 10}, 1, 1),
    ("scienceqa", "b", CHOICES, 0, 1),
    ("scienceqa", "B.", CHOICES, 0, 1),
    ("scienceqa", "B.red", CHOICES, 0, 1),
    ("scienceqa", "B. red", CHOICES, 1, 1),
    ("scienceqa", "The answer is B.", CHOICES, 1, 0),
    ("scienceqa", "The answer is B", CHOICES, 0, 0),
    ("scienceqa", "The answer is B. The answer is B.", CHOICES, 0, 0),
    ("scienceqa", "E", CHOICES | {"answer": 4}, 0, 1),  # LLaVA: no such choice
    *(("scienceqa", text, CHOICES, 0, 0) for text in ("(B)", "B)", "B,", "B:", "")),
    *(("pope", text, POPE, 1, 0) for text in ("Yes.", "Nope", "none", "", "isn't there", ".No", "No\nno")),
    *(("pope", text, POPE, 1, 0) for text in ("NO", "No!")),
    *(("pope", text, NO, 1, 0) for text in ("No.", "There is not a dog", "Yes, there is no dog")),
    *(("mme", text, MME, 0, 1) for text in ("y", "Y", "..yes", "y.e.s")),
    *(("mme", text, MME, 1, 1) for text in ("Yes, it is", "eyes", "YES")),
    *(("mme", text, MME, 0, 0) for text in ("Not sure", "The answer is yes", "**Yes**", "know", "")),
    *(("mme", text, MME | {"answer": "No"}, 1, 1) for text in ("Not sure", "None", "Snow", "another")),
    ("mme", "n.o.", MME | {"answer": "No"}, 0, 1),
    *(("mmbench", text, {"options": COLOURS, "answer": "B"}, 1, 1) for text in ("B", "B.", "(B)", "B. green", "green")),
    *(("mmbench", text, {"options": COLOURS, "answer": "B"}, 0, 1) for text in ("`B`", "B/C", "Banana.")),
    ("mmbench", "B, because A is wrong", {"options": COLOURS, "answer": "B"}, 0, 1),
    ("mmbench", "A, B", {"options": COLOURS, "answer": "B"}, 0, 1),  # a lone "B" decides in lmms-eval
    ("mmbench", "A is what I think", {"options": COLOURS, "answer": "A"}, 0, 1),
    ("mmbench", "I think it is A", {"options": COLOURS, "answer": "A"}, 1, 1),
    ("mmbench", "The answer is **B**, and here is why", {"options": COLOURS, "answer": "B"}, 1, 1),
    ("mmbench", "E", {"options": COLOURS, "answer": "E"}, 0, 1),  # a letter that no option has
    ("mmbench", "banana", {"options": THREE, "answer": "C"}, 1, 0),  # lmms-eval: "nan" is an option's text
    ("mmbench", "It is green, I am quite sure of that, look", {"options": COLOURS, "answer": "B"}, 0, 1),  # too long
    *(("mmbench", text, {"options": COLOURS, "answer": "B"}, 0, 0) for text in ("b", "", "purple")),
]


def metric_of(name, protocol, reference, **options):
    first = {"id": "1", "index": 1, **reference}
    partner = [first | {"id": "2"}] if name == "mme" else []  # MME asks two questions about an image
    return make_metric(name, protocol, [first, *partner], **options), first


@pytest.mark.parametrize(("name", "prediction", "reference", "llava", "lmms_eval"), CASES)
def test_one_prediction(name, prediction, reference, llava, lmms_eval):
    for protocol, expected in (("llava", llava), ("lmms_eval", lmms_eval)):
        metric, item = metric_of(name, protocol, reference)
        assert metric.judge(prediction, item)["score"] == expected, protocol


def test_every_benchmark_is_compared():
    assert {case[0] for case in CASES} == set(METRICS)


@pytest.mark.parametrize(("name", "protocol", "right"), [
    *((name, "llava", 100) for name in ("gqa", "vqav2", "scienceqa", "textvqa", "pope", "mmbench")),
    *((name, "lmms_eval", 1) for name in ("gqa", "vqav2", "scienceqa", "textvqa", "pope")),
    ("mmbench", "lmms_eval", 100), ("mme", "llava", 200), ("mme", "lmms_eval", 200),
])  # fmt: skip
def test_scale_of_the_headline(name, protocol, right):
    given = {
        "gqa": ("yes", {"answer": "yes"}),
        "vqav2": ("yes", YES_BY_TEN),
        "scienceqa": ("B", CHOICES | {"image": True}),
        "textvqa": ("yes", {"answers": ["yes"] * 10}),
        "pope": ("yes", POPE),
        "mme": ("yes", MME),
        "mmbench": ("B", {"options": COLOURS, "answer": "B"}),
    }
    prediction, reference = given[name]
    metric, _ = metric_of(name, protocol, reference)
    metric.update([prediction] * len(metric.references), metric.references)
    assert metric.compute()[headline(name, protocol)] == right


def test_pope_has_the_gold_ratio_of_lmms_eval_under_its_own_name_only():
    items = [{"id": str(i), "answer": gold, "category": "random"} for i, gold in enumerate(["yes", "no", "no", "no"])]
    both = {}
    for protocol in PROTOCOLS:
        metric = make_metric("pope", protocol, items)
        metric.update(["yes", "yes", "yes", "maybe"], items)
        both[protocol] = metric.compute()
    assert both["llava"]["yes_ratio"] == 100 and "pope_yes_ratio" not in both["llava"]
    assert both["lmms_eval"]["yes_ratio"] == 0.75 and both["lmms_eval"]["pope_yes_ratio"] == 0.25


def test_scienceqa_image_subset():
    items = [{"id": str(i), "answer": 0, "choices": ["x", "y"], "image": i < 3} for i in range(5)]
    metric = make_metric("scienceqa", "llava", items)
    metric.update(["A", "B", "A", "A"], [items[0], items[1], items[3], items[4]])
    # item 2 has no prediction: wrong among all, and not among those with an image, as in LLaVA's script
    assert metric.compute() == {"accuracy": 60.0, "accuracy_img": 50.0, "missing": 1.0}
    metric = make_metric("scienceqa", "llava", items[3:])
    metric.update(["A", "A"], items[3:])
    assert metric.compute() == {"accuracy": 100.0}


def test_gqa_by_type():
    kinds = ("query", "verify", "verify", None)
    items = [{"id": str(i), "answer": "x", "types": {"structural": kind}} for i, kind in enumerate(kinds)]
    metric = make_metric("gqa", "llava", items)
    metric.update(["x", "x", "y", "x"], items)
    kinds = {"accuracy/open": 100, "accuracy/query": 100, "accuracy/binary": 50, "accuracy/verify": 50}
    assert metric.compute() == {"accuracy": 75} | kinds


def test_vqav2_by_answer_type():
    items = [{"id": str(i), **YES_BY_TEN, "answer_type": kind} for i, kind in enumerate(["yes/no", "other", "other"])]
    metric = make_metric("vqav2", "lmms_eval", items)
    metric.update(["yes", "yes", "no"], items)
    assert metric.compute() == {"accuracy": pytest.approx(2 / 3), "accuracy/other": 0.5, "accuracy/yes/no": 1.0}


@pytest.mark.parametrize("name", ["vqav2", "textvqa"])
def test_questions_without_answers_are_wrong_in_lmms_eval(name):
    answers = YES_BY_TEN["answers"] if name == "vqav2" else ["yes"] * 10
    items = [{"id": "1", "answers": answers}, {"id": "2", "answers": None}, {"id": "3"}, {"id": "4", "answers": []}]
    metric = make_metric(name, "lmms_eval", items)
    metric.update(["yes"] * 4, items)
    assert metric.compute() == {"accuracy": 0.25}
    for protocol in PROTOCOLS:
        with pytest.raises(ValueError, match=f"{name}: no item has answers; a split without public answers"):
            make_metric(name, protocol, items[1:])


@pytest.mark.parametrize(("text", "left"), [
    ("<think>a</think> b ", "b"), ("a</think>b</think>c", "c"), ("<think>a", "<think>a"), ("<THINK>a</THINK>b", None),
    ("<analysis>x</analysis><think>a</think>b<think>c</think>d", "bd"), ("", ""),
])  # fmt: skip
def test_reasoning_tags(text, left):
    assert without_reasoning(text) == (text if left is None else left)
