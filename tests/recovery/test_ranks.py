"""Two ranks train as one does with batches twice as large, and no plan leaves a weight without a gradient."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from train_toy import BATCH, EQUAL, UNUSED, run

HERE = Path(__file__).parent


def on_ranks(ranks: int, folder: Path, *names: str) -> dict:
    """What so many ranks found."""
    out = folder / "found.json"
    paths = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE.parents[1])])}
    command = [sys.executable, str(HERE.parent / "train_toy.py"), str(out), str(ranks), *names]
    done = subprocess.run(command, env=os.environ | paths, timeout=400)
    assert done.returncode == 0, "".join(log.read_text()[-3000:] for log in folder.glob("*.log"))
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory) -> dict:
    """All runs."""
    return on_ranks(2, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", EQUAL)
def test_two_ranks_with_batch_b_are_one_with_batch_2b(name, on_two_ranks):
    alone, two = run(1, batch=2 * BATCH, **EQUAL[name]), on_two_ranks[name]
    assert len(alone["losses"]) == EQUAL[name].get("steps", 20)
    assert two["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    assert len({round(loss, 3) for loss in alone["losses"]}) == len(alone["losses"])
    assert two["weights"] == pytest.approx(alone["weights"], rel=1e-4)


@pytest.mark.slow
def test_four_ranks_with_batch_b_are_one_with_batch_4b(tmp_path):
    """The last step of an epoch has one row a rank."""
    alone, four = run(1, batch=4 * BATCH), on_ranks(4, tmp_path, "ce")["ce"]
    assert len(alone["losses"]) == 20
    assert four["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    assert four["weights"] == pytest.approx(alone["weights"], rel=1e-4)


@pytest.mark.parametrize("name", UNUSED)
def test_every_trained_weight_is_used(name, on_two_ranks):
    assert len(on_two_ranks[name]["losses"]) == 2


def test_two_batches_accumulated_are_one_twice_as_large():
    once, twice = run(1, batch=4, steps=5, clip=0.5), run(1, batch=2, steps=5, accumulate=2, clip=0.5)
    assert twice["losses"] == pytest.approx(once["losses"], abs=1e-5)
    assert twice["weights"] == pytest.approx(once["weights"], rel=1e-4)
