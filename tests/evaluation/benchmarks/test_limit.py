"""What a limit keeps: whole groups, drawn by the seed, in the order of the file."""

from collections import Counter

import pytest

from yopo_train.errors import UserError
from yopo_train.evaluation.benchmarks import BENCHMARKS, get_benchmark


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_limit_keeps_whole_groups_in_order(name, samples):
    benchmark = BENCHMARKS[name]
    every = benchmark.items(samples / name)
    sizes = Counter(benchmark.group(item) for item in every)
    for limit in (1, 2, 5, 7, len(every) - 1):
        kept = benchmark.items(samples / name, limit=limit)
        assert Counter(benchmark.group(item) for item in kept).items() <= sizes.items()
        ids = [item.id for item in every]
        assert [item.id for item in kept] == [name for name in ids if name in {item.id for item in kept}]
        assert len(kept) == limit if max(sizes.values()) == 1 else 0 < len(kept) <= max(limit, max(sizes.values()))
    assert benchmark.items(samples / name, limit=len(every)) == every == benchmark.items(samples / name, limit=10**6)


@pytest.mark.parametrize(("name", "groups"), [("mme", {2}), ("mmbench", {2, 3, 4})])
def test_pairs_and_rotations_are_groups(name, groups, samples):
    benchmark = get_benchmark(name)
    sizes = Counter(benchmark.group(item) for item in benchmark.items(samples / name))
    assert set(sizes.values()) == groups


def test_the_seed_draws(samples):
    def ids(seed):
        return tuple(item.id for item in get_benchmark("pope").items(samples / "pope", limit=6, seed=seed))

    assert ids(0) == ids(0)
    assert len({ids(seed) for seed in range(10)}) > 5


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_of_nothing(limit, samples):
    with pytest.raises(UserError, match=f"gqa: limit is {limit}, expected at least 1"):
        get_benchmark("gqa").items(samples / "gqa", limit=limit)
