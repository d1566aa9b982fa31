"""What is asked of the hub, for each benchmark and split; nothing is fetched here."""

import pytest
from datasets import load_dataset

from yopo_train.errors import UserError
from yopo_train.evaluation.benchmarks import BENCHMARKS, get_benchmark, tables


@pytest.fixture
def hub(monkeypatch, hub_copy):
    """The calls; the hub's repositories are the sample's copies."""
    calls = []

    def load(source, config="default", *, split, **more):
        if source == "parquet":
            return load_dataset(source, split=split, **more)
        calls.append((source, config, split))
        name = next(name for name, benchmark in BENCHMARKS.items() if source.endswith(f"/{benchmark.hub}"))
        folder = hub_copy(name) / ("data" if config == "default" else config)
        return load_dataset("parquet", data_files={split: str(folder / f"{split}-*.parquet")}, split=split)

    monkeypatch.setattr(tables, "load_dataset", load)
    return calls


@pytest.mark.parametrize(
    ("name", "split", "asked"),
    [
        ("gqa", None, [("GQA", f"testdev_balanced_{part}", "testdev") for part in ("instructions", "images")]),
        ("vqav2", None, [("VQAv2", "default", "validation")]),
        ("vqav2", "testdev", [("VQAv2", "default", "testdev")]),
        ("scienceqa", None, [("ScienceQA", "ScienceQA-IMG", "test")]),
        ("scienceqa", "test_full", [("ScienceQA", "ScienceQA-FULL", "test")]),
        ("textvqa", None, [("textvqa", "default", "validation")]),
        ("pope", None, [("POPE", "default", "test")]),
        ("pope", "random", [("POPE", "Full", "random")]),
        ("mme", None, [("MME", "default", "test")]),
        ("mmbench", None, [("MMBench", "en", "dev")]),
        ("mmbench", "test", [("MMBench", "en", "test")]),
    ],
)  # fmt: skip
def test_ids_configs_and_splits(name, split, asked, hub):
    benchmark = get_benchmark(name)
    items = benchmark.items(split=split)
    assert hub == [(f"lmms-lab-encoder/{source}", config, part) for source, config, part in asked]
    hub.clear()
    assert [item.reference for item in benchmark.items(f"lmms-lab/{benchmark.hub}", split=split)] == [
        item.reference for item in items
    ]
    assert hub == [(f"lmms-lab/{source}", config, part) for source, config, part in asked]


def test_a_hub_that_cannot_be_reached(monkeypatch):
    def load(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'lmms-lab-encoder/MME' on the Hub\nand more lines")

    monkeypatch.setattr(tables, "load_dataset", load)
    with pytest.raises(
        UserError, match=r"^lmms-lab-encoder/MME, split 'test': cannot be read \(Couldn't reach .*Hub\)"
    ):
        get_benchmark("mme").items()


def test_textvqa_test_has_empty_answers(hub_copy):
    def empty(rows, features):
        for row in rows:
            row["answers"] = [""] * 10

    benchmark = get_benchmark("textvqa")
    assert not benchmark.has_answers(benchmark.items(hub_copy("textvqa", change=empty)))
