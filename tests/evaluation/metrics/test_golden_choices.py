"""ScienceQA, POPE, MME: every key of every golden row."""

import pytest
from golden_cases import cases, each_key

from yopo_train.evaluation.metrics import make_metric
from yopo_train.evaluation.metrics.scienceqa import llava_letter

# The answer holds a line end or tab: MME's tool cannot read the file then. We read the answer by the same rule.
BREAKS_MMES_FILE = {f"mme-{number}" for number in (100, 102, 103, 104, 105, 106, 107, 108, 109, 202, 203)}
TOLERANCE = 1e-9


def judge(name, protocol, prediction, reference, **options):
    reference = {"id": "1", **reference}
    return make_metric(name, protocol, [reference], **options).judge(prediction, reference)


@each_key("scienceqa")
def test_scienceqa(given, key, expected):
    prediction, choices = given["prediction"], given["choices"]
    if key != "llava":
        judged = judge("scienceqa", "lmms_eval", prediction, given, reasoning_tags=key == "lmms_eval_cli")
        assert judged["score"] == expected
        return
    judged = judge("scienceqa", "llava", prediction, given)
    assert (judged["score"], judged["parsed"]) == (expected["correct"], expected["parsed"])
    right = [i for i in range(len(choices)) if judge("scienceqa", "llava", prediction, given | {"answer": i})["score"]]
    assert (right or [-1]) == [expected["pred_idx"]]
    if raw := expected.get("if_not_stripped"):
        assert llava_letter(prediction) == raw["parsed"]


@each_key("pope")
def test_pope(given, key, expected):
    protocol = "llava" if key == "llava" else "lmms_eval"
    reference = {"answer": given["answer"], "category": "random"}
    judged = judge("pope", protocol, given["prediction"], reference, reasoning_tags=key == "lmms_eval_cli")
    assert judged["parsed"] == expected["label" if key == "llava" else "prediction"]
    assert judged["score"] == expected["correct" if key == "llava" else "score"]


def pope_scores(protocol, given):
    references, predictions = [], []
    for category, answers in given.items():
        for prediction, gold in answers:
            references.append({"id": str(len(references)), "answer": gold, "category": category})
            predictions.append(prediction)
    metric = make_metric("pope", protocol, references)
    metric.update(predictions, references)
    return metric.compute()


@each_key("pope", "dataset")
def test_pope_as_a_whole(given, key, expected):
    scores = pope_scores(key, given)
    if key == "lmms_eval":
        for category, names in expected.items():
            end = "" if category.startswith("all") else f"/{category}"
            for name, value in names.items():
                ours = name if name == "pope_yes_ratio" else {"pope_f1_score": "f1"}.get(name, name[len("pope_") :])
                assert scores[ours + end] == pytest.approx(value, abs=TOLERANCE), name + end
        return
    f1 = []
    for category in given:
        counts = expected[category]
        hits, wrong_yes, wrong_no, right_no = (counts[name] for name in ("TP", "FP", "FN", "TN"))
        # a zero denominator, where the reference raises ("_error"), is 0
        precision = hits / (hits + wrong_yes) if hits + wrong_yes else 0
        recall = hits / (hits + wrong_no) if hits + wrong_no else 0
        f1.append(2 * precision * recall / (precision + recall) if precision + recall else 0)
        values = {"precision": precision, "recall": recall, "f1": f1[-1], "accuracy": (hits + right_no) / counts["n"]}
        values |= {"yes_ratio": (hits + wrong_yes) / counts["n"]}
        for name, value in values.items():
            assert scores[f"{name}/{category}"] == pytest.approx(100 * value, abs=TOLERANCE)
            printed = counts.get({"f1": "f1_score"}.get(name, name), value)
            assert value == pytest.approx(printed, abs=TOLERANCE), "our reading of the counts"
    assert scores["f1_mean"] == pytest.approx(100 * sum(f1) / len(f1), abs=TOLERANCE)


@each_key("mme")
def test_mme(given, key, expected):
    item = {"id": "1", "image": "1.jpg", "answer": given["answer"], "category": given["category"]}
    protocol = "llava" if key == "official" else "lmms_eval"
    metric = make_metric("mme", protocol, [item, item | {"id": "2"}], reasoning_tags=key == "lmms_eval_cli")
    judged = metric.judge(given["prediction"], item)
    if expected.get("label") == "input-file-breaks":  # see BREAKS_MMES_FILE
        assert judged["parsed"] in ("yes", "no", "other")
        return
    assert judged["score"] == expected["correct" if key == "official" else "score"]
    if "label" in expected:
        assert judged["parsed"] == expected["label"]


def test_no_other_row_breaks_mmes_file():
    broken = {row["id"] for row in cases("mme") if row["expected"]["official"].get("label") == "input-file-breaks"}
    assert broken == BREAKS_MMES_FILE


@each_key("mme", "dataset")
def test_mme_as_a_whole(given, key, expected):
    references, predictions = [], []
    for category, images in given.items():
        for image, pairs in images:
            for prediction, gold in pairs:
                name = {"id": str(len(references)), "image": image, "category": category, "answer": gold}
                references.append(name)
                predictions.append(prediction)
    protocol = "llava" if key == "official" else "lmms_eval"
    if str(expected.get("mme_cognition_score")).startswith("AssertionError"):
        with pytest.raises(ValueError, match=r"4 questions about image '1.jpg' of category '\w+', expected 2"):
            make_metric("mme", protocol, references)
        return
    metric = make_metric("mme", protocol, references)
    metric.update(predictions, references)
    scores = metric.compute()
    if key == "lmms_eval":
        assert scores["perception"] == pytest.approx(expected["mme_perception_score"], abs=TOLERANCE)
        assert scores["cognition"] == pytest.approx(expected["mme_cognition_score"], abs=TOLERANCE)
        return
    for part in ("Perception", "Cognition"):
        assert scores[part.lower()] == pytest.approx(expected[part]["total"], abs=TOLERANCE)
        for category, value in expected[part]["tasks"].items():
            assert scores[f"score/{category}"] == pytest.approx(value, abs=TOLERANCE)
            assert scores[f"acc/{category}"] + scores[f"acc_plus/{category}"] == scores[f"score/{category}"]
    assert scores["total"] == scores["perception"] + scores["cognition"]
