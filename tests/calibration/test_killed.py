"""A calibration that is killed by SIGKILL: the same command starts it again, and gives what it would have given."""

import os
import signal
import subprocess
import sys

import pytest

from yopo_train.calibration import Scores
from yopo_train.cli import main

COMMAND = """
import os, sys, time
from yopo_train.calibration import CalibrationModule
from yopo_train.cli import main

def wait():
    print("here", flush=True)
    time.sleep(60)

step, replace = CalibrationModule.validation_step, os.replace
if sys.argv[1] == "between two batches":
    CalibrationModule.validation_step = lambda *args: wait() if args[-1] else step(*args)
else:
    os.replace = lambda old, new: wait() if new.name == "scores.safetensors" else replace(old, new)
main(sys.argv[2:])
"""


@pytest.mark.parametrize("moment", ["between two batches", "before the file gets its name"])
def test_a_killed_calibration_starts_again(moment, config, tmp_path):
    run = tmp_path / "run"
    arguments = ["calibrate", "--config", str(config), "--data.eval_batch_size=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", COMMAND, moment, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert any("here" in line for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    left = {file.name for file in run.iterdir()} - {"config.yaml"}
    assert left == (set() if "batches" in moment else {f".scores.safetensors.{process.pid}.tmp"})

    assert main(arguments) == 0
    assert {file.name for file in run.iterdir()} == {"config.yaml", "scores.safetensors", "results.json"}
    assert main([*arguments, f"--run_dir={tmp_path / 'undisturbed'}"]) == 0
    expected = Scores.load(tmp_path / "undisturbed" / "scores.safetensors")
    assert Scores.load(run / "scores.safetensors").id == expected.id
