"""The metric, alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yopo_train.evaluation.exact_match import ExactMatch, is_match, normalise


@pytest.mark.parametrize(
    ("prediction", "answer", "same"),
    [
        ("Red", "red", True),
        (" red.\n", "red", True),
        ("red .", "red", True),
        ("STRASSE", "straße", True),
        ("red..", "red", False),
        ("red, blue", "red", False),
        ("", "red", False),
        (".", "", True),
        ("1.5", "15", False),
    ],
)
def test_what_counts_as_the_same(prediction, answer, same):
    assert is_match(prediction, answer) is same is is_match(answer, prediction)


@given(st.text())
def test_any_text_matches_itself_with_space_and_stop(text):
    assert is_match(text, text)
    if not normalise(text).endswith("."):
        assert is_match(f"  {normalise(text)}. ", text)


def test_overall_and_by_kind():
    metric = ExactMatch(["count", "colour", "digit"])
    metric.update(["red", "Blue."], ["red", "blue"], ["colour", "colour"])
    metric.update(["3", "4"], ["3", "5"], ["count", "count"])
    assert metric.compute() == {"accuracy": 0.75, "accuracy/colour": 1.0, "accuracy/count": 0.5}
    metric.reset()
    assert metric.compute() == {}


def test_states_of_two_ranks_add_up():
    """Also where each has seen other kinds."""
    ranks = [ExactMatch(["a", "b"]) for _ in range(2)]
    ranks[0].update(["x"], ["x"], ["a"])
    ranks[1].update(["x", "y"], ["y", "y"], ["b", "b"])
    total = ExactMatch(["b", "a", "a"])
    for state in ("correct", "total"):
        setattr(total, state, getattr(ranks[0], state) + getattr(ranks[1], state))
    assert total.compute() == {"accuracy": 2 / 3, "accuracy/a": 1.0, "accuracy/b": 0.5}


def test_wrong_use():
    metric = ExactMatch(["a"])
    with pytest.raises(ValueError):
        metric.update(["x"], ["x"], ["b"])
    with pytest.raises(ValueError):
        metric.update(["x"], ["x", "y"], ["a", "a"])
