"""Configurations that shard the training: FSDP2 on one gloo rank; DeepSpeed without a GPU."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from written import losses

from yopo_train.cli import main

HAS_DEEPSPEED = find_spec("deepspeed") is not None
STRATEGIES = Path(__file__).parents[2] / "configs" / "strategies"

pytestmark = pytest.mark.usefixtures("alone_again")


def test_fsdp2_trains_as_one_process_does(config, tmp_path):
    options = ["--config", str(config), "--model.loss=ce+kd", "--data.test_limit=1"]
    assert main(["fit", *options, f"--run_dir={tmp_path / 'alone'}"]) == 0
    sharded = ["--config", str(STRATEGIES / "fsdp2.yaml"), "--trainer.devices=1", "--checkpoint.every_n_steps=2"]
    assert main(["fit", *options, *sharded, f"--run_dir={tmp_path / 'sharded'}"]) == 0
    assert [*map(float, losses(tmp_path / "sharded"))] == pytest.approx(
        [*map(float, losses(tmp_path / "alone"))], abs=1e-4
    )
    answers = [(tmp_path / run / "predictions" / "recovered.jsonl").read_text() for run in ("alone", "sharded")]
    assert answers[0] == answers[1]
    assert (tmp_path / "sharded" / "checkpoints" / "last.ckpt").is_file()


SHARDED = ["--config", str(STRATEGIES / "fsdp2.yaml")]


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        (
            ["--config", str(STRATEGIES / "deepspeed.yaml")],
            "DeepSpeed, which needs NVIDIA GPUs" if HAS_DEEPSPEED else "pip install 'yopo_train[deepspeed]'",
        ),
        (
            [*SHARDED, "--trainer.callbacks=EMAWeightAveraging"],
            "trainer.callbacks has EMAWeightAveraging, expected no average of the weights with FSDP2",
        ),
        (["--trainer.strategy=fsdp"], "trainer.strategy is fsdp, expected ddp, or FSDP2 or DeepSpeed"),
        (["--trainer.strategy=deepspeed_stage_3"], "trainer.strategy is deepspeed_stage_3, expected ddp, or FSDP2"),
        (
            ["--config", str(STRATEGIES / "fsdp2.yaml"), "--trainer.strategy.init_args.stage=3"],
            "unknown key stage in model.pruning or in the init_args of a class",
        ),
        ([*SHARDED, "--trainer.limit_val_batches=null"], "trainer.limit_val_batches is None, expected 0: FSDP2"),
        (
            [*SHARDED, "--evaluation.benchmarks=[pope]", "--evaluation.every_n_steps=2"],
            "evaluation.every_n_steps asks for pope, expected null: FSDP2",
        ),
    ],
)
def test_what_cannot_be_had(options, culprit, config, tmp_path, capsys):
    assert main(["fit", "--config", str(config), *options]) == 2
    error = capsys.readouterr().err
    assert culprit in error and len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
SLURM = {
    "SLURM_NTASKS": "2",
    "SLURM_JOB_NAME": "recover",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}


@pytest.mark.parametrize(
    ("started", "options", "culprit"),
    [
        (TORCHRUN, [], "trainer.devices 1 times trainer.num_nodes 1 is 1, expected 2: so many processes TorchElastic"),
        (TORCHRUN, ["--trainer.num_nodes=3"], "does not match the world size (2)"),
        (SLURM, ["--trainer.num_nodes=2"], "Use `--ntasks-per-node=2` instead"),
        (
            SLURM | {"SLURM_NTASKS_PER_NODE": "2"},
            ["--trainer.num_nodes=2"],
            "the number of tasks per node configured in SLURM `--ntasks-per-node=2` does not match",
        ),
    ],
)
def test_processes_that_others_have_started_are_counted(
    started, options, culprit, config, tmp_path, monkeypatch, capsys
):
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    assert main(["fit", "--config", str(config), "--trainer.devices=1", *options]) == 2
    error = capsys.readouterr().err
    assert culprit in error and len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()
