"""Several sets with weights, and batches of rows of about the same length."""

import json
import tracemalloc
from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch
from data_modules import data_of, ids
from question_sets import make_row, write_split

from yopo_train.data import sampler as module
from yopo_train.data.mixture import TrainSource
from yopo_train.data.sampler import TrainSampler
from yopo_train.errors import UserError


@pytest.fixture
def as_rank(monkeypatch):
    """Pretend to be a rank."""

    def become(rank: int, world: int) -> None:
        monkeypatch.setattr(module, "rank_and_world", lambda: (rank, world))

    return become


def epoch(sampler: TrainSampler, number: int) -> list[int]:
    sampler.set_epoch(number)
    return list(sampler)


def test_weights_say_how_often_each_row_is_visited():
    sampler = TrainSampler([10, 40, 20], seed=1, weights=[2.5, 1.0, 0.25])
    assert len(sampler) == 25 + 40 + 5
    total = Counter()
    for number in range(200):
        seen = Counter(epoch(sampler, number))
        assert sum(seen.values()) == 70
        assert all(seen[row] in (2, 3) for row in range(10)) and sum(seen[row] for row in range(10)) == 25
        assert all(seen[row] == 1 for row in range(10, 50))
        total += seen
    # another fraction each epoch: of the last set's rows each is drawn in 50 of 200 epochs, give or take 6.1
    drawn = np.array([total[row] for row in range(50, 70)])
    assert drawn.sum() == 1000 and abs(drawn - 50).max() < 5 * 6.2
    assert epoch(sampler, 3) == epoch(TrainSampler([10, 40, 20], 1, weights=[2.5, 1.0, 0.25]), 3) != epoch(sampler, 4)


def test_weights_of_one_are_the_plain_permutation():
    assert list(TrainSampler([30, 20], 5, weights=[1.0, 1.0])) == list(TrainSampler(50, 5))


def test_the_order_of_a_seed_stays_what_it_was():
    """Runs of earlier versions are to be repeatable."""
    expected = torch.randperm(3200, generator=torch.Generator().manual_seed(7 * 1_000_003 + 2)).tolist()
    assert epoch(TrainSampler(3200, 7), 2) == expected


LENGTHS = np.random.default_rng(0).integers(10, 1000, 5000).astype(np.int32)


def waste(order: list[int], batch: int) -> float:
    """Share of padding."""
    batches = [LENGTHS[order[start : start + batch]] for start in range(0, len(order), batch)]
    return 1 - sum(b.sum() for b in batches) / sum(b.max() * len(b) for b in batches)


def test_rows_of_about_the_same_length_share_a_batch():
    sampler = TrainSampler(5000, 0, lengths=LENGTHS, batch_size=8)
    first, second = epoch(sampler, 0), epoch(sampler, 1)
    assert sorted(first) == list(range(5000)) and first != second
    assert waste(first, 8) < 0.03 < 0.4 < waste(list(TrainSampler(5000, 0)), 8)
    means = [LENGTHS[first[start : start + 8]].mean() for start in range(0, 5000, 8)]
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.15, "batches come in any order"


@pytest.mark.parametrize("options", [{"lengths": LENGTHS[:203]}, {"lengths": LENGTHS[:203], "weights": [0.5, 2.0]}])
def test_groups_are_the_same_on_one_rank_and_on_two(as_rank, options):
    sizes = [100, 103] if "weights" in options else 203
    whole = list(TrainSampler(sizes, 3, batch_size=8, **options))
    parts = []
    for rank in range(2):
        as_rank(rank, 2)
        parts.append(list(TrainSampler(sizes, 3, batch_size=4, **options)))
    assert len(parts[0]) == len(parts[1])
    for number in range(len(parts[0]) // 4):
        mine = chain.from_iterable(part[4 * number : 4 * number + 4] for part in parts)
        assert Counter(mine) == Counter(whole[8 * number : 8 * number + 8])


@pytest.mark.parametrize("world", [1, 2])
def test_a_resumed_epoch_of_groups_goes_on_where_it_was(as_rank, world):
    as_rank(world - 1, world)
    options = {"lengths": LENGTHS[:203], "batch_size": 4, "weights": [1.5, 0.7]}
    whole = epoch(TrainSampler([100, 103], 3, **options), 2)
    assert list(TrainSampler([100, 103], 3, epoch=2, done=12, **options)) == whole[12:]


@pytest.fixture
def sets(tmp_path):
    """A parquet set of 20 rows of one to four turns, and LLaVA's format with 8 rows."""
    own = write_split(tmp_path / "own", "train", [make_row(number, turns=1 + number % 4) for number in range(20)])
    rows = [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Yes. " * 20}]
    (tmp_path / "talk.json").write_text(json.dumps([{"id": f"talk-{i}", "conversations": rows} for i in range(8)]))
    return [TrainSource(str(own)), TrainSource(str(tmp_path / "talk.json"), weight=2.0)]


def test_a_mixture_of_formats(sets, processor):
    data = data_of(sets[0].path, processor, train=sets)
    seen = Counter(ids(data.train_dataloader()))
    assert seen == {f"row-{number}": 1 for number in range(20)} | {f"talk-{number}": 2 for number in range(8)}
    assert ids(data.train_dataloader()) == ids(data_of(sets[0].path, processor, train=sets).train_dataloader())
    assert len(data.train_dataloader()) == 9
    assert data.rows("train").source.count("split 'train'") == 2 and data.rows("train").kinds[-1] == "question"
    assert len(data.rows("calibration")) == 20, "calibration looks at data.path"


def test_limits_and_dropped_rows_of_a_mixture(sets, processor):
    data = data_of(sets[0].path, processor, train=sets, train_limit=14, max_length=250, group_by_length=True)
    seen = Counter(ids(data.train_dataloader()))
    assert all(times == (2 if name.startswith("talk") else 1) for name, times in seen.items())
    kept, lengths = data.training_rows()
    assert 0 < len(kept) < 14 and lengths.tokens.max() <= 250
    assert len(ids(data.train_dataloader())) == sum(data.train_sampler(kept, lengths).visits)


def test_the_batches_that_come_out_are_grouped(sets, processor):
    padding = []
    for grouped in (False, True):
        data = data_of(sets[0].path, processor, group_by_length=grouped, batch_size=5)
        masks = [batch["attention_mask"] for batch in data.train_dataloader()]
        padding.append(sum(int((mask == 0).sum()) for mask in masks))
    assert padding[1] < padding[0] / 2


def test_lengths_are_kept(sets, processor, monkeypatch):
    monkeypatch.setattr("yopo_train.data.lengths.KEPT_FROM", 2)
    first = data_of(sets[0].path, processor, group_by_length=True, num_workers=1)
    expected, lengths = ids(first.train_dataloader()), first.training_rows()[1]
    monkeypatch.setattr("yopo_train.data.lengths._measure", None)
    again = data_of(sets[0].path, processor, group_by_length=True)
    assert ids(again.train_dataloader()) == expected
    assert np.array_equal(again.training_rows()[1].tokens, lengths.tokens) and (lengths.visual == 144).all()
    with pytest.raises(TypeError):  # other sizes of images: counted anew
        data_of(sets[0].path, processor, group_by_length=True, max_pixels=1000).train_dataloader()


@pytest.mark.parametrize("weight", [0, -1.0, float("nan"), float("inf")])
def test_weights_out_of_range(weight):
    with pytest.raises(UserError, match=r"^data.train: the weight of a is .*, expected a number above 0"):
        TrainSource("a", weight=weight)


def test_an_empty_mixture(sets):
    with pytest.raises(UserError, match=r"^data.train is an empty list, expected question sets, or null$"):
        data_of(sets[0].path, None, train=[])


def test_a_million_rows_are_no_python_objects():
    """An epoch's order is a few tensors, of which a stretch at a time becomes integers."""
    size = 1_000_000
    sampler = TrainSampler([size - 10, 10], 0, weights=[0.5, 3.0], lengths=np.ones(size, np.int32), batch_size=8)
    tracemalloc.start()
    try:
        order = iter(sampler)
        assert len({next(order) for _ in range(5000)}) == 5000
        assert tracemalloc.get_traced_memory()[1] < 4e6, "bytes"
    finally:
        tracemalloc.stop()


def test_the_second_start_of_a_large_set_reads_no_row_but_those_it_trains_on(tmp_path, processor, monkeypatch):
    """What was prepared is kept: rows out of JSON, what the checks found, lengths."""
    for module_of_kept in ("checks", "lengths"):
        monkeypatch.setattr(f"yopo_train.data.{module_of_kept}.KEPT_FROM", 100)
    talk = [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Yes."}]
    rows = [{"id": f"talk-{i}", "conversations": talk[: 2 - (i == 7)]} for i in range(300)]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    options = {"max_length": 500, "group_by_length": True, "strict": False}
    with pytest.warns(UserWarning, match=r"skipped 1 of 300 rows: no answer \(1\)"):
        first = next(iter(data_of(tmp_path, processor, **options).train_dataloader()))
    for name in ("json_files._write", "checks._walk", "lengths._measure"):
        monkeypatch.setattr(f"yopo_train.data.{name}", None)
    again = data_of(tmp_path, processor, **options)
    with pytest.warns(UserWarning, match=r"skipped 1 of 300 rows: no answer \(1\)"):
        loader = again.train_dataloader()
    assert next(iter(loader))["meta"] == first["meta"] and len(loader) == 75
