"""What tests with process groups in their own process share."""

import os

import pytest
import torch.distributed as dist

from yopo_train.pipeline import stages


@pytest.fixture
def alone_again(monkeypatch):
    """No process group and none of its variables left for other tests, and no seed of theirs; a short bench stage."""
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    monkeypatch.setattr(stages, "BENCH_REPEATS", 1)
    monkeypatch.setattr(stages, "BENCH_BATCH", 1)
    before = dict(os.environ)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)
