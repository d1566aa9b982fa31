"""MMBench: every golden row. LLaVA's path is the exact matching of VLMEvalKit, the toolkit behind the server."""

import pytest
from golden_cases import cases

from yopo_train.evaluation.metrics import make_metric
from yopo_train.evaluation.metrics.mmbench_letters import extracted_letter, named_letter, prefetched_letter

ABBREVIATIONS = {
    "CP": "coarse_perception",
    "FP-S": "finegrained_perception (instance-level)",
    "RR": "relation_reasoning",
    "L2b": "L2b",
}
RANDOM_LETTERS = {"mmb-ds-2"}  # its lmms_eval_openai needs GPT, and without it draws letters at random
TOLERANCE = 1e-9


def rows(kind):
    return [
        pytest.param(row["input"], row["expected"], id=row["id"]) for row in cases("mmbench") if row["kind"] == kind
    ]


def reference_of(row):
    options = {letter: text for letter, text in row["options"].items() if text is not None}
    return {"id": str(row["index"]), **row, "options": options}


def scores_of(protocol, given):
    references = [reference_of(row) for row in given]
    metric = make_metric("mmbench", protocol, references)
    metric.update([row["prediction"] for row in given], references)
    return metric.compute()


@pytest.mark.parametrize(("given", "expected"), rows("sample"))
def test_one_answer(given, expected):
    reference, prediction = reference_of({"index": 1, **given}), given["prediction"]
    left = dict(expected)

    theirs = left.pop("vlmevalkit")
    judged = make_metric("mmbench", "llava", [reference]).judge(prediction, reference)
    assert judged == {"score": theirs["exact_matching_hit"], "parsed": theirs["prefetch"] or None}

    metric, theirs = make_metric("mmbench", "lmms_eval", [reference]), left.pop("lmms_eval")
    text = prediction.strip()
    as_stored = {letter: option or "nan" for letter, option in given["options"].items()}
    assert (named_letter(text) or False) == theirs["can_infer_option"]
    assert (prefetched_letter(text, as_stored) or False) == theirs["prefetch"]
    assert metric.judge(prediction, reference)["score"] == theirs["static_hit"]
    assert theirs.get("openai_hit", theirs["static_hit"]) == theirs["static_hit"], "without GPT both tasks agree"
    if theirs["static_fallback"] is not None:
        assert extracted_letter(text, list(reference["options"])) == theirs["static_fallback"]

    if theirs := left.pop("lmms_eval_missing_null", None):  # if the data held null and not the text nan
        assert (prefetched_letter(text, reference["options"]) or False) == theirs["prefetch"]
    if theirs := left.pop("lmms_eval_cli", None):
        metric = make_metric("mmbench", "lmms_eval", [reference], reasoning_tags=True)
        assert metric.judge(prediction, reference)["score"] == theirs["static_hit"]
    assert not left, "keys that nothing looked at"


@pytest.mark.parametrize(("given", "expected"), rows("extract"))
def test_the_static_extractor(given, expected):
    assert expected == {"lmms_extract_mcq_answer": extracted_letter(given["text"], given["choices"])}


@pytest.mark.parametrize(("given", "expected"), rows("group"))
def test_one_group(given, expected):
    assert scores_of("llava", given["rows"])["accuracy"] == 100 * expected["vlmevalkit_exact_matching_hit"]
    theirs = expected["lmms_eval"]
    assert scores_of("lmms_eval", given["rows"])["accuracy"] == 100 * theirs["static_hit"]
    assert theirs.get("openai_hit", theirs["static_hit"]) == theirs["static_hit"], "without GPT both tasks agree"


@pytest.mark.parametrize(
    "row", [row for row in cases("mmbench") if row["kind"] == "dataset"], ids=lambda row: row["id"]
)
def test_all_groups(row):
    given, left = row["input"]["rows"], dict(row["expected"])
    scores = scores_of("lmms_eval", given)
    if row["id"] in RANDOM_LETTERS:
        assert left.pop("lmms_eval_openai")["gpt_calls_failed"]
    for key in ("lmms_eval_static", "lmms_eval_openai"):
        if theirs := left.pop(key, None):
            ours = {"accuracy": theirs["overall_acc"]}
            ours |= {f"accuracy/{name}": value for name, value in theirs["category_acc"].items()}
            ours |= {f"accuracy/l2/{name}": value for name, value in theirs["l2_category_acc"].items()}
            assert scores == pytest.approx({name: 100 * value for name, value in ours.items()}, abs=TOLERANCE)

    theirs = left.pop("vlmevalkit_exact_matching")
    names = {"Overall": "accuracy"} | {short: f"accuracy/l2/{name}" for short, name in ABBREVIATIONS.items()}
    ours = {names.get(key, f"accuracy/{key}"): 100 * value for key, value in theirs.items()}
    assert scores_of("llava", given) == pytest.approx(ours, abs=TOLERANCE)
    for index, hit in left.pop("vlmevalkit_hits", {}).items():
        group = [part for part in given if part["index"] % 1_000_000 == int(index)]
        assert scores_of("llava", group)["accuracy"] == 100 * hit
    assert not left, "keys that nothing looked at"
