"""The command on two processes that torchrun or SLURM start, on one node or two, ended by signals and started again."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from fake_slurm import fake_scontrol, in_slurm
from question_sets import make_row, write_split
from safetensors.torch import load_file
from toy_resume import At, train
from written import adapter, losses, step_of

from yopo_train.pipeline.signals import terminable

HERE = Path(__file__).parent
FSDP2 = str(HERE.parents[1] / "configs" / "strategies" / "fsdp2.yaml")
STEPS = 6


@pytest.fixture(scope="module")
def place(tiny_vlm, questions, tmp_path_factory) -> Path:
    """A folder with a configuration: no pruning, dropout, a worker process, a checkpoint every two steps."""
    folder = tmp_path_factory.mktemp("environments")
    sections = {
        "model": {
            "base": str(tiny_vlm),
            "lora": {"r": 4, "lora_dropout": 0.1},
            "optimizer": {"lr": 1e-2},
            "max_new_tokens": 2,
        },
        "data": {
            "path": str(questions),
            "batch_size": 2,
            "eval_batch_size": 4,
            "test_limit": 2,
            "num_workers": 1,
        },
        "checkpoint": {"every_n_steps": 2},
        "trainer": {
            "max_steps": STEPS,
            "limit_val_batches": 0,
            "log_every_n_steps": 1,
            "accelerator": "cpu",
            "enable_progress_bar": False,
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(sections))
    fake_scontrol(folder)
    return folder


def copied(place: Path, to: Path) -> Path:
    """A folder of its own with the same configuration."""
    (to / "config.yaml").write_text((place / "config.yaml").read_text())
    return to


def run(name: str, by: str, place: Path, *more: str, folder: str | None = None, signals: list = []) -> dict:  # noqa: B006
    """A run for ``launched.py``."""
    nodes = ["--trainer.devices=2"] if by == "one node" else ["--trainer.num_nodes=2", "--trainer.devices=1"]
    args = ["fit", "--config", str(place / "config.yaml"), *more, *nodes, f"--run_dir={place / (folder or name)}"]
    return {"name": name, "by": by, "args": args, "signals": signals}


def launched(place: Path, *runs: dict) -> dict[str, list[int]]:
    """Exit codes by the name of the run."""
    paths = {"PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE.parents[1])])}
    environment = os.environ | paths | {"OMP_NUM_THREADS": "1", "PATH": f"{place / 'bin'}:{os.environ['PATH']}"}
    command = [sys.executable, str(HERE.parent / "launched.py"), str(place), *map(json.dumps, runs)]
    subprocess.run(command, env=environment, check=True, timeout=400)
    return json.loads((place / "codes.json").read_text())


def printed(place: Path, name: str) -> str:
    return "".join((place / f"{name}.{rank}.log").read_text() for rank in (0, 1))


@pytest.mark.parametrize(
    ("more", "job"), [({}, "4711"), ({"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}, "12_3")]
)
def test_a_slurm_job_whose_time_is_over_is_queued_again(more, job, tmp_path, monkeypatch):
    """The signal comes in the middle of a step. All later stages would load a checkpoint that Lightning had made."""
    in_slurm(tmp_path, monkeypatch, more)
    before = signal.getsignal(signal.SIGUSR1)
    told = At("on_after_backward", 2, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    with terminable():
        train(tmp_path / "run", told, max_steps=4, limit_val_batches=0, every=None)
    assert signal.getsignal(signal.SIGUSR1) == before
    assert (tmp_path / "scontrol.log").read_text() == f"requeue {job}\n"
    assert not list((tmp_path / "run").rglob("hpc_ckpt*"))
    assert step_of(tmp_path / "run") == 3  # then it goes on until it is ended


@pytest.mark.slow
def test_nodes_and_slurm_are_two_processes_like_any(place):
    """Two nodes of torchrun; and a SLURM job whose time is over: it is queued again, ended, and goes on."""
    over = [[2, "SIGUSR1", [0, 1]], [3, "SIGTERM", [0, 1]]]
    codes = launched(
        place,
        run("nodes", "two nodes", place),
        run("over", "slurm", place, folder="slurm", signals=over),
        run("again", "slurm", place, folder="slurm"),
    )
    assert codes == {"nodes": [0, 0], "over": [143, 143], "again": [0, 0]}, printed(place, "over")
    assert (place / "scontrol.log").read_text() == "requeue 4711\n"
    assert not list((place / "slurm").rglob("hpc_ckpt*"))
    assert "terminated; the same command goes on from here" in printed(place, "over")
    assert "continued from" in printed(place, "again") and "Traceback" not in printed(place, "over")
    assert losses(place / "slurm") == losses(place / "nodes") and len(losses(place / "nodes")) == STEPS
    assert adapter(place / "slurm") == adapter(place / "nodes")


@pytest.mark.slow
def test_both_ranks_go_on_to_the_adapter_when_the_last_checkpoint_finds_no_room(place, tmp_path):
    place = copied(place, tmp_path)
    codes = launched(place, run("whole", "one node", place), run("full", "one node", place) | {"full": STEPS})
    assert codes == {"whole": [0, 0], "full": [0, 0]}, printed(place, "full")
    assert printed(place, "full").count(f"UserWarning: no checkpoint of step {STEPS}: ") == 1
    assert step_of(place / "full") == STEPS - 2 and adapter(place / "full") == adapter(place / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["FSDP2", "DeepSpeed"])
def test_a_sharded_training_is_ddps_and_goes_on_after_a_kill(strategy, place, tmp_path):
    """Under a plan; with DeepSpeed, for which Lightning wants GPUs, as the tests run it without any."""
    if strategy == "DeepSpeed":
        pytest.importorskip("deepspeed")
    on_cpu = ["--trainer.strategy.class_path=zero_on_cpu.DeepSpeedOnCpu"]
    settings = ["--config", FSDP2] if strategy == "FSDP2" else on_cpu
    common = ["--model.loss=ce+kd", "--model.pruning.preset=paper-25", "--data.calibration_samples=4"]
    common += ["--trainer.accumulate_grad_batches=2", "--trainer.gradient_clip_val=1"]
    sharded, place = [*common, *settings], copied(place, tmp_path)
    codes = launched(
        place,
        run("ddp", "one node", place, *common),
        run("whole", "one node", place, *sharded),
        run("killed", "one node", place, *sharded, folder="again", signals=[[3, "SIGKILL", [1]]]),
        run("again", "one node", place, *sharded),
    )
    assert codes == {"ddp": [0, 0], "whole": [0, 0], "killed": [-9, -9], "again": [0, 0]}, printed(place, "whole")
    assert "continued from" in printed(place, "again")
    assert losses(place / "again") == losses(place / "whole") and len(losses(place / "whole")) == STEPS
    assert adapter(place / "again") == adapter(place / "whole")
    assert [*map(float, losses(place / "whole"))] == pytest.approx([*map(float, losses(place / "ddp"))], abs=1e-5)
    weights = {name: load_file(place / name / "adapter" / "adapter_model.safetensors") for name in ("ddp", "whole")}
    for name, weight in weights["ddp"].items():
        torch.testing.assert_close(weights["whole"][name], weight, rtol=0, atol=1e-4, msg=name)
    checkpoints = [
        torch.load(place / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("ddp", "whole")
    ]
    assert checkpoints[0]["state_dict"].keys() == checkpoints[1]["state_dict"].keys()
    states = [checkpoint["optimizer_states"][0]["state"] for checkpoint in checkpoints]
    for number, state in states[0].items():
        torch.testing.assert_close(states[1][number]["exp_avg"], state["exp_avg"], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_rows_that_prove_broken_while_they_are_decoded_are_counted_on_both_ranks(place, tmp_path):
    """Each is met once in each of two epochs, by one rank or the other; what both have met is said in one line."""
    rows, broken, place = [make_row(number) for number in range(16)], (3, 4, 9), copied(place, tmp_path)
    write_split(tmp_path / "set", "test", rows)
    for number in broken:
        rows[number]["images"][0]["bytes"] = rows[number]["images"][0]["bytes"][:80]
    options = [f"--data.path={write_split(tmp_path / 'set', 'train', rows)}", "--data.strict=false"]
    codes = launched(place, run("broken", "one node", place, *options, "--trainer.max_steps=8"))
    said = printed(place, "broken").splitlines()
    assert codes == {"broken": [0, 0]}, said
    summary = [line.partition("UserWarning: ")[2] for line in said if "could not be used" in line]
    assert len(summary) == 1
    assert summary[0].startswith("3 training rows could not be used, others were trained on 6 times; first: ")
    named = {(line.rpartition("row 'row-")[2].partition("'")[0]) for line in said if "replaced by the next row" in line}
    assert named == {str(number) for number in broken}
