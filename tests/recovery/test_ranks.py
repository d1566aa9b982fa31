"""Two ranks train as one does with batches twice as large, and no plan leaves a weight without a gradient."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ports import own_port
from train_toy import BATCH, EQUAL, UNUSED, run

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory) -> dict:
    """What both ranks found, started as torchrun starts them."""
    out = tmp_path_factory.mktemp("ranks") / "found.json"
    common = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(own_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "NODE_RANK": "0", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE.parents[1])]),
    }  # fmt: skip
    command = [sys.executable, str(HERE.parent / "train_toy.py"), str(out)]
    processes = []
    for rank in ("0", "1"):
        environment = os.environ | common | {"RANK": rank, "LOCAL_RANK": rank}
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors[0][-3000:] + errors[1][-3000:]
    return json.loads(out.read_text())


@pytest.mark.parametrize("name", EQUAL)
def test_two_ranks_with_batch_b_are_one_with_batch_2b(name, on_two_ranks):
    alone, two = run(1, batch=2 * BATCH, **EQUAL[name]), on_two_ranks[name]
    assert len(alone["losses"]) == EQUAL[name].get("steps", 20)
    assert two["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    assert len({round(loss, 3) for loss in alone["losses"]}) == len(alone["losses"])
    assert two["weights"] == pytest.approx(alone["weights"], rel=1e-4)


@pytest.mark.parametrize("name", UNUSED)
def test_every_trained_weight_is_used(name, on_two_ranks):
    assert len(on_two_ranks[name]["losses"]) == 2


def test_two_batches_accumulated_are_one_twice_as_large():
    once, twice = run(1, batch=4, steps=5, clip=0.5), run(1, batch=2, steps=5, accumulate=2, clip=0.5)
    assert twice["losses"] == pytest.approx(once["losses"], abs=1e-5)
    assert twice["weights"] == pytest.approx(once["weights"], rel=1e-4)
