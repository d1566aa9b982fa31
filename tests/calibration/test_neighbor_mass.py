"""Neighbor mass and cross-modal mass against stored attention matrices; which visual queries are asked."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from toy import IMAGE_TOKEN, SIDE, VISUAL, toy_batch, toy_llava

from yopo_train.calibration import NeighborMass, calibrate, collect
from yopo_train.calibration.neighbor_mass import DISTANCES
from yopo_train.calibration.samples import VISUAL_QUERIES, Sample, grid_places, spread

MODELS = {kv_heads: toy_llava(kv_heads, layers=3) for kv_heads in (4, 2, 1)}


def eager_attentions(model, batch: dict) -> torch.Tensor:
    """``(layers, batch, heads, tokens, tokens)``."""
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            return torch.stack(model(**batch, output_attentions=True).attentions)
    finally:
        model.set_attn_implementation("sdpa")


def distance(query: int, key: int) -> int | None:
    """Grid distance between two visual tokens, counted through all images; None between two images."""
    if query // VISUAL != key // VISUAL:
        return None
    (row, column), (other_row, other_column) = divmod(query % VISUAL, SIDE), divmod(key % VISUAL, SIDE)
    return max(abs(row - other_row), abs(column - other_column))


@st.composite
def batches(draw) -> dict:
    """One to three prompts of one to four images (64 visual tokens are more than are asked)."""
    samples = []
    for _ in range(draw(st.integers(1, 3))):
        images = ["image"] * draw(st.integers(1, 4))
        samples.append([*draw(st.lists(st.integers(1, 4), max_size=1)), *images, draw(st.integers(1, 4))])
    return toy_batch(samples, draw(st.sampled_from(["left", "right"])), draw(st.integers(0, 99)))


@given(batches(), st.sampled_from(sorted(MODELS)))
@settings(max_examples=25, deadline=None)
def test_masses_equal_eager_attention(batch, kv_heads):
    model = MODELS[kv_heads]
    attentions, near, cross = eager_attentions(model, batch), torch.zeros(3, SIDE), []
    for sample, ids in enumerate(batch["input_ids"]):
        visual = (ids == IMAGE_TOKEN).nonzero().flatten()
        text = [i for i in batch["attention_mask"][sample].nonzero().flatten().tolist() if i > visual[0]]
        text = [i for i in text if i not in visual]
        cross.append(attentions[:, sample][:, :, text][..., visual].sum(dim=-1).mean(dim=(1, 2)))
        for query in spread(len(visual), VISUAL_QUERIES).tolist():
            for key in range(query + 1):
                if (apart := distance(query, key)) is not None:
                    near[:, apart] += attentions[:, sample, :, visual[query], visual[key]].sum(dim=1)
    scores = calibrate(model, [batch])
    torch.testing.assert_close(scores.neighbor_mass, near / near.sum(dim=1, keepdim=True), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(scores.cross_modal, torch.stack(cross).mean(dim=0), rtol=1e-4, atol=1e-6)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 64))
@settings(max_examples=200, deadline=None)
def test_asked_queries_are_spread_over_the_grid(rows, columns, count):
    size = rows * columns
    asked = spread(size, count)
    assert torch.equal(asked, asked.sort().values.unique()) and asked.min() >= 0 and asked.max() < size
    if size <= count:
        assert len(asked) == size
        return
    gaps = torch.cat((asked, torch.tensor([size]))).diff(prepend=torch.tensor([0]))
    assert gaps.max() <= 2 * size / count + 1, "a part of the image is never asked"


def test_asked_queries_meet_rows_and_columns_evenly():
    """A step of 18 tokens, 576 / 32, would see 4 of 24 columns."""
    asked = spread(24 * 24, 32)
    assert len(asked) == 32
    assert len((asked // 24).unique()) >= 20 and len((asked % 24).unique()) >= 16
    for part in (asked // 24, asked % 24):
        assert abs(part.double().mean() - 11.5) < 1.5


def test_frames_and_images_are_places_of_their_own():
    places = grid_places([(2, 2, 3), (1, 1, 2)])
    assert places.tolist()[:4] == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0]]
    assert places.tolist()[6] == [1, 0, 0] and places.tolist()[-2:] == [[2, 0, 0], [2, 0, 1]]


class Largest(TorchDispatchMode):
    """The largest tensor that anything gives."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, tuple | list) else [output]:
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return output


def test_no_tensor_grows_with_tokens_squared(monkeypatch):
    monkeypatch.setattr(collect, "CHUNK", 1000)
    largest = {}
    for side in (20, 40):
        visual, text = side * side, side * side // 2
        tokens, asked = visual + text, spread(visual, VISUAL_QUERIES)
        keys = torch.arange(tokens)
        distances = torch.zeros(len(asked), tokens, dtype=torch.long)
        sample = Sample(0, keys, keys < visual, keys[:visual], keys[visual:], asked, distances, side - 1)
        query, key = torch.rand(tokens, 2, 8), torch.rand(tokens, 1, 8)
        with Largest() as seen:
            collect.text_mass(query[visual:], key, sample)
            collect.neighbor_mass(query[asked], key, sample)
        largest[side] = seen.numbers
    assert largest[40] <= 4.2 * largest[20], "four times the tokens, more than four times the memory"


def test_a_whole_calibration_of_4096_visual_tokens_holds_nothing_of_their_square():
    side = 64
    model = toy_llava(2, layers=2, vision_layers=1, side=side)
    ids = torch.tensor([[5, 6, *[IMAGE_TOKEN] * side * side, 7, 8, 9]])
    pixels = torch.randn(1, 3, 4 * side, 4 * side, generator=torch.Generator().manual_seed(0))
    with Largest() as seen:
        scores = calibrate(model, [{"input_ids": ids, "pixel_values": pixels}])
    assert scores.neighbor_mass.shape == (2, side) and scores.n_samples == 1
    assert side**2 < seen.numbers < side**4 / 16


def test_merging_takes_the_larger_grid_and_far_keys_count_as_the_last():
    generator = torch.Generator().manual_seed(0)
    masses = torch.rand(2, 3, DISTANCES, generator=generator)
    masses[0, :, 4:], masses[1, :, 9:] = 0, 0
    small, large, empty = (NeighborMass(3) for _ in range(3))
    small.update(masses[0], 3)
    large.update(masses[1], 8)
    empty.update(torch.zeros(3, DISTANCES), 0)
    for other in (large, empty):
        small.merge_state(other)
    expected = masses.sum(dim=0)[:, :9]
    torch.testing.assert_close(small.compute(), expected / expected.sum(dim=1, keepdim=True))
    empty.update(torch.ones(3, DISTANCES), 5000)
    assert empty.compute().shape == (3, DISTANCES)
