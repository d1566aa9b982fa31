"""GQA, VQAv2, TextVQA: every key of every golden row."""

import pytest
from golden_cases import NOT_IMPLEMENTED, cases, each_key

from yopo_train.evaluation.metrics import make_metric
from yopo_train.evaluation.metrics.text import COMMA_OFFICIAL, evalai_answer, vqa_answer
from yopo_train.evaluation.metrics.vqav2 import official_accuracy

TOLERANCE = 1e-9


def judge(name, protocol, prediction, reference, **options):
    reference = {"id": "1", **reference}
    return make_metric(name, protocol, [reference], **options).judge(prediction, reference)


NORMALISATIONS = {
    "evalai_processor": evalai_answer,
    "lmms_eval_vqav2": vqa_answer,
    "official_vqa": lambda text: vqa_answer(text, COMMA_OFFICIAL),
}


@pytest.mark.parametrize("key", sorted(NORMALISATIONS))
def test_normalisation(key):
    rows = cases("vqa_normalize")
    assert all(set(row["expected"]) <= {*NORMALISATIONS, *NOT_IMPLEMENTED} for row in rows)
    ours = {row["id"]: NORMALISATIONS[key](row["input"]["text"]) for row in rows}
    assert ours == {row["id"]: row["expected"][key] for row in rows}


@each_key("gqa")
def test_gqa(given, key, expected):
    protocol = "llava" if key.startswith("llava") else "lmms_eval"
    judged = judge("gqa", protocol, given["prediction"], given, reasoning_tags=key == "lmms_eval_cli")
    assert judged["parsed" if key == "llava_converted_prediction" else "score"] == expected


@each_key("gqa", "dataset")
def test_gqa_as_a_whole(given, key, expected):
    references = [{"id": str(place), "answer": answer} for place, answer in enumerate(given["answers"])]
    metric = make_metric("gqa", {"llava_official": "llava"}.get(key, key), references)
    metric.update(given["predictions"], references)
    accuracy = metric.compute()["accuracy"]
    if key == "lmms_eval":
        assert accuracy == pytest.approx(expected["exact_match"], abs=TOLERANCE)
    else:
        assert accuracy == pytest.approx(100 * expected["mean"], abs=TOLERANCE)
        assert round(accuracy, 2) == expected["accuracy_percent_2dp"]


@each_key("vqav2")
def test_vqav2(given, key, expected):
    answers, prediction = given.get("answers"), given["prediction"]
    if key == "official_vqa":
        assert official_accuracy(prediction, answers) == pytest.approx(expected, abs=TOLERANCE)
        return
    field = "parsed" if key in ("llava_submission", "lmms_eval_answer") else "score"
    protocol = "llava" if key.startswith("llava") else "lmms_eval"
    item, other = {"id": "1", "answers": answers}, {"id": "2", "answers": [{"answer": "yes"}]}
    judged = make_metric("vqav2", protocol, [item, other]).judge(prediction, item)  # one row has no answers
    assert judged[field] == (pytest.approx(expected, abs=TOLERANCE) if field == "score" else expected)


@each_key("textvqa")
def test_textvqa(given, key, expected):
    protocol = "llava" if key == "llava_m4c" else "lmms_eval"
    if expected == "AssertionError":
        with pytest.raises(ValueError, match=r"item '1' has \d+ answers, expected 10"):
            judge("textvqa", protocol, given["prediction"], given)
        return
    judged = judge("textvqa", protocol, given["prediction"], given)
    if key == "answer":
        assert judged["parsed"] == expected
    else:
        assert judged["score"] == pytest.approx(expected, abs=TOLERANCE)
