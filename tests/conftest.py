"""What tests of whole runs need: the tiny VLM, untrained, a small question set, and a configuration for both."""

from pathlib import Path

import pytest
import yaml
from question_sets import make_row, write_split

from yopo_train.models.tiny import build_tiny


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory):
    """`datasets` keeps its memory-mapped copies here and not in the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets-cache")))
        yield


@pytest.fixture(scope="session")
def tiny_vlm(tmp_path_factory) -> Path:
    """Folder of the untrained tiny VLM."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny(folder)
    return folder


@pytest.fixture(scope="session")
def questions(tmp_path_factory) -> Path:
    """Folder of a question set with all four splits, no row in two of them."""
    folder = tmp_path_factory.mktemp("data") / "questions"
    first = 0
    for split, size in (("train", 16), ("calibration", 4), ("validation", 3), ("test", 5)):
        write_split(folder, split, [make_row(index) for index in range(first, first + size)])
        first += size
    return folder


@pytest.fixture
def config(tiny_vlm, questions, tmp_path) -> Path:
    """A configuration whose whole run takes a few seconds; its run folder is ``tmp_path / "run"``."""
    sections = {
        "run_dir": str(tmp_path / "run"),
        "model": {
            "base": str(tiny_vlm),
            "pruning": {"preset": "paper-25"},
            "lora": {"r": 4},
            "optimizer": {"lr": 1e-2},
            "max_new_tokens": 3,
        },
        "data": {"path": str(questions), "batch_size": 4, "eval_batch_size": 4, "calibration_samples": 4},
        "trainer": {"max_steps": 3, "limit_val_batches": 0, "log_every_n_steps": 1, "accelerator": "cpu"},
    }
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(sections))
    return file
