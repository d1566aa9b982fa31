"""Whose answers a file holds: they are not taken for those to other images, or in another precision."""

import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from PIL import Image

from yopo_train.evaluation.benchmarks import get_benchmark
from yopo_train.evaluation.runner import evaluate

SAMPLES = Path(__file__).parents[2] / "data" / "benchmarks"


@pytest.mark.parametrize("change", ["nothing", "images", "precision"])
def test_answers_are_taken_again_only_where_nothing_has_changed(change, model, processor, tmp_path):
    source, file = tmp_path / "gqa", tmp_path / "predictions.jsonl"
    shutil.copytree(SAMPLES / "gqa", source)

    def ask(context=None):
        with context or nullcontext():
            return evaluate(model, processor, "gqa", get_benchmark("gqa").items(source), file=file, max_new_tokens=1)

    total = ask().items
    if change == "images":
        for image in (source / "images").glob("*.jpg"):
            Image.new("RGB", (90, 60)).save(image)
    context = torch.autocast("cpu", torch.bfloat16) if change == "precision" else None
    assert ask(context).resumed == (total if change == "nothing" else 0)
