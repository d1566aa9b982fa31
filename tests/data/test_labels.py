"""Laying a text's tokens over the processor's."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yopo_train.data.labels import answer_labels, text_places

IMAGE = 9


@st.composite
def expansions(draw):
    """Text tokens with placeholders, the processor's version of them, and where each text token went."""
    text_ids, ids, places = [], [], []
    wrap = draw(st.sampled_from([[], [7, 8]]))  # InternVL's tokens before and behind an image
    for part in draw(st.lists(st.one_of(st.just(IMAGE), st.integers(0, 3)), max_size=12)):
        text_ids.append(part)
        if part == IMAGE:
            ids += [*wrap[:1], *[IMAGE] * draw(st.integers(1, 4)), *wrap[1:]]
            places.append(None)
        else:
            places.append(len(ids))
            ids.append(part)
    return ids, text_ids, places


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # the machine may be busy
@given(expansions())
def test_text_is_found_around_images(case):
    ids, text_ids, places = case
    assert text_places(ids, text_ids, IMAGE) == places


@pytest.mark.parametrize(
    ("ids", "text_ids"),
    [
        ([1, 2, 3], [1, 2, 4]),
        ([1, 2], [1, 2, 3]),
        ([1, 2, 3], [1, 2]),
        ([1, IMAGE, 2], [1, IMAGE, 3]),
        ([1], [1, IMAGE, 2]),
    ],
)
def test_other_text_is_an_error(ids, text_ids):
    with pytest.raises(ValueError):
        text_places(ids, text_ids, IMAGE)


def test_only_whole_tokens_inside_a_span_are_trained():
    offsets = [(0, 0), (0, 3), (3, 4), (4, 8), (8, 9), (9, 12)]
    text_ids = [1, 2, IMAGE, 4, 5, 6]
    ids = [1, 2, IMAGE, IMAGE, 4, 5, 6]
    assert answer_labels(ids, text_ids, offsets, [(4, 9)], IMAGE) == [-100, -100, -100, -100, 4, 5, -100]
    assert answer_labels(ids, text_ids, offsets, [(5, 10)], IMAGE) == [-100, -100, -100, -100, -100, 5, -100]
    assert answer_labels(ids, text_ids, offsets, [(0, 4)], IMAGE) == [-100, 2, -100, -100, -100, -100, -100]
