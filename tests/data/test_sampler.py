"""The order of rows, on one process and on several."""

from itertools import chain

import pytest
from torch.utils.data import DataLoader

from yopo_train.data import sampler as module
from yopo_train.data.sampler import EvalSampler, TrainSampler


@pytest.fixture
def as_rank(monkeypatch):
    """Pretend to be a rank."""

    def become(rank: int, world: int) -> None:
        monkeypatch.setattr(module, "rank_and_world", lambda: (rank, world))

    return become


def order(size: int, seed: int, epoch: int) -> list[int]:
    sampler = TrainSampler(size, seed)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_order_follows_from_seed_and_epoch():
    assert sorted(order(50, 3, 1)) == list(range(50))
    assert order(50, 3, 1) == order(50, 3, 1)
    orders = [order(50, seed, epoch) for seed in range(4) for epoch in range(4)]
    assert len({tuple(one) for one in orders}) == 16


def test_order_does_not_depend_on_what_happened_before():
    sampler = TrainSampler(50, 3)
    list(sampler), sampler.set_epoch(7), list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) == order(50, 3, 1)


def test_ranks_share_the_batches_of_one_process(as_rank):
    single = list(DataLoader(range(43), batch_size=6, sampler=TrainSampler(43, 0), collate_fn=list))
    ranks = []
    for rank in range(3):
        as_rank(rank, 3)
        assert len(TrainSampler(43, 0)) == 14
        ranks.append(list(DataLoader(range(43), batch_size=2, sampler=TrainSampler(43, 0), collate_fn=list)))
    for whole, *parts in zip(single[:7], *ranks, strict=True):
        assert sorted(whole) == sorted(chain.from_iterable(parts))


@pytest.mark.parametrize("world", [1, 3])
def test_a_resumed_epoch_goes_on_where_it_was(as_rank, world):
    for rank in range(world):
        as_rank(rank, world)
        sampler, whole = TrainSampler(43, 3, epoch=2, done=5), TrainSampler(43, 3)
        for epoch in (2, 3):
            whole.set_epoch(epoch)
            sampler.set_epoch(epoch)
            assert list(sampler) == list(whole)[5 if epoch == 2 else 0 :]
        assert len(sampler) == len(whole)
        whole.set_epoch(2)
        assert list(TrainSampler(43, 3, epoch=2)) == list(whole), "the first epoch is known from the start"


@pytest.mark.parametrize(("size", "world"), [(17, 2), (17, 4), (3, 4), (16, 2), (1, 3)])
def test_evaluation_sees_each_row_once(as_rank, size, world):
    seen = []
    for rank in range(world):
        as_rank(rank, world)
        assert len(EvalSampler(size)) == len(list(EvalSampler(size)))
        seen += list(EvalSampler(size))
    assert sorted(seen) == list(range(size))
