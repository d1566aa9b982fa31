"""Small samples of the benchmarks, in their official files, with pictures of our own: nothing of theirs is copied."""

from yopo_train.data.benchmark_samples.build import build

__all__ = ["build"]
