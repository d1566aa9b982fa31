"""The references that items carry are what the metrics take: right answers to the samples score in full."""

import pytest

from yopo_train.evaluation.benchmarks import BENCHMARKS, PROTOCOLS
from yopo_train.evaluation.metrics import headline, make_metric

BEST = {  # (llava, lmms_eval): percent and shares, but MME's sums of 200 for each of the sample's 7 kinds of perception
    "gqa": (100, 1),
    "vqav2": (100, 1),
    "scienceqa": (100, 1),
    "textvqa": (100, 1),
    "pope": (100, 1),
    "mme": (1400, 1400),
    "mmbench": (100, 100),
}


def right_answer(item):
    answer = item.reference.get("answer")
    if isinstance(answer, int):
        return "ABCDE"[answer]
    if answer is None:
        texts = [one if isinstance(one, str) else one["answer"] for one in item.reference["answers"]]
        return max(texts, key=texts.count)
    return answer


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", BENCHMARKS)
def test_right_answers_score_in_full(name, protocol, samples):
    items = BENCHMARKS[name].items(samples / name, protocol)
    references = [item.reference for item in items]
    scores = []
    for predictions in ([right_answer(item) for item in items], ["surely wrong"] * len(items)):
        metric = make_metric(name, protocol, references)
        metric.update(predictions, references)
        scores.append(metric.compute()[headline(name, protocol)])
    assert scores[0] == pytest.approx(BEST[name][PROTOCOLS.index(protocol)])
    assert scores[1] < scores[0]
