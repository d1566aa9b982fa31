"""The command: a sweep from the command line, and one line for whatever is wrong, before anything is measured."""

import json
import os
import subprocess
import sys

import pytest
import torch
from families import FAMILIES
from toy import random_plan

from yopo_train.bench.command import bench
from yopo_train.cli import main
from yopo_train.plan import ModelDims


def test_a_sweep_over_a_slice(tiny_vlm, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("yopo_train.progress.PLAIN_EVERY_S", 0.0)
    files = {"--json": str(tmp_path / "bench.json"), "--plot": str(tmp_path / "bench.png")}
    options = ["--model", str(tiny_vlm), "--layers", "4", "--visual-tokens", "4,16", "--text_tokens=8", "--decode=1"]
    options += ["--repeats", "1", "--device", "cpu", "--radius=1", *(part for pair in files.items() for part in pair)]
    assert main(["bench", *options]) == 0
    printed, progress = capsys.readouterr()
    assert "4 visual tokens: 1/4 turns" in progress and "16 visual tokens: 3/4 turns" in progress
    assert "turns" not in printed
    for part in ("4 visual and 8 text tokens", "16 visual", "extrapolated", "growth exponent", "radius 1"):
        assert part in printed, part
    found = json.loads((tmp_path / "bench.json").read_text())
    assert [point["visual_tokens"] for point in found["points"]] == [4, 16]
    assert found["growth"].keys() == {"base", "pruned"} and found["layers"] == 4
    assert found["points"][0]["whole_model"]["layers"] == 8
    assert found["points"][0]["plan"] == found["points"][1]["plan"]
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_one_prompt_shape_with_a_plan_file(tiny_vlm, tmp_path, capsys):
    plan = random_plan(ModelDims(8, 128, 384, 8, 8, 16), 3, 2)
    plan.save(tmp_path / "plan.safetensors")
    (result,) = bench(
        str(tiny_vlm), None, "16", 8, plan=tmp_path / "plan.safetensors", repeats=1, decode=0, device="cpu",
        plot=tmp_path / "bench.svg",
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert plan.id in printed and "extrapolated" not in printed and result.whole_model is None
    assert "<svg" in (tmp_path / "bench.svg").read_text()


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl"])
def test_folder_of_a_model_whose_images_have_any_size(name, tmp_path):
    """What the engine computes is what the formulas say: biases, norms and DeepStack cost no product."""
    FAMILIES[name].toy().config.save_pretrained(tmp_path)
    (result,) = bench(str(tmp_path), 3, "12", 8, decode=1, repeats=1, train=True, reference=True, device="cpu")
    assert (result.visual_tokens, result.text_tokens) == (12, 8)
    for row in (result.rows["base"], result.rows["pruned"]):
        assert row.counted == row.flops and row.cache_bytes == row.cache_formula
    assert result.whole_model is not None


BAD = {
    "no square": (["--visual-tokens=500"], "--visual-tokens is 500, expected a square number"),
    "no visual tokens": (["--visual-tokens=0"], "--visual-tokens is 0, expected a square number"),
    "no number": (["--visual-tokens", "576;2304"], "--visual-tokens is '576;2304', expected a number"),
    "twice": (["--visual-tokens=16,16"], "--visual-tokens is 16,16, expected each number once"),
    "layers": (["--layers=99"], "--layers is 99, expected 1 to 8"),
    "no layer": (["--layers=0"], "--layers is 0, expected 1 to 8"),
    "model": (["--model=gpt-7"], "--model is 'gpt-7', expected one of llava-1.5-7b, llava-1.5-13b, llava-next-7b"),
    "dtype": (["--dtype=float99"], "--dtype is 'float99', expected one of: float32, bfloat16, float16"),
    "device": (["--device=tpu"], "--device is 'tpu', expected cpu, cuda"),
    "batch": (["--batch=0"], "--batch is 0, expected 1 or more"),
    "text": (["--text-tokens=0"], "--text-tokens is 0, expected 1 or more"),
    "text to train on": (["--train", "--text-tokens=1", "--reference"], "--text-tokens is 1, expected 2 or more"),
    "repeats": (["--repeats=0"], "--repeats is 0"),
    "decode": (["--decode=-1"], "--decode is -1, expected 0 or more"),
    "preset": (["--preset=paper-50"], "--preset is paper-50, expected paper-25 or paper-12"),
    "preset null": (["--preset=null"], "--preset is null, expected paper-25 or paper-12"),
    "preset and budget": (["--preset=paper-25", "--budget=0.5"], "--preset and --budget are given, expected one"),
    "budget": (["--budget=1.5"], "--budget is 1.5, expected a share"),
    "radius": (["--radius=-1"], "--radius is -1, expected an integer >= 0"),
    "plan": (["--plan=none.safetensors"], "none.safetensors: no such file"),
    "json": (["--json=no/such/folder/x.json"], "--json is no/such/folder/x.json, but its folder does not exist"),
    "plot": (["--plot=x.bmp"], "--plot is x.bmp, expected a file that ends in"),
    "unknown": (["--visual-token=16"], "visual_token"),
    "type": (["--batch=two"], "batch is 'two', expected an integer"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options_are_one_line(case, tiny_vlm, capsys):
    options, message = BAD[case]
    assert main(["bench", "--model", str(tiny_vlm), "--device=cpu", *options]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and message in error[0], error


def test_a_plan_of_another_slice_and_outputs_that_cannot_be(tiny_vlm, tmp_path, capsys):
    file, pipe = tmp_path / "plan.safetensors", tmp_path / "pipe"
    os.mkfifo(pipe)
    random_plan(ModelDims(8, 128, 384, 8, 8, 16), 3, 2).save(file)
    base = ["bench", "--model", str(tiny_vlm), "--device=cpu", f"--plan={file}"]
    for options, message in (
        (["--layers=4"], "--layers 4: the model has layers = 4, but the plan was made for a model with layers = 8"),
        (["--radius=2"], "--radius is 2, expected none beside --plan"),
        ([f"--json={tmp_path}"], "but that is a folder"),
        ([f"--json={pipe}", "--visual-tokens=4", "--repeats=1"], f"--json is {pipe}, but that is no regular file"),
    ):
        assert main([*base, *options]) == 2
        assert message in capsys.readouterr().err


def test_a_model_that_does_not_fit_is_not_built(tiny_vlm, capsys, monkeypatch):
    monkeypatch.setattr("yopo_train.bench.models.free_bytes", lambda device: 2**20)
    assert main(["bench", "--model", str(tiny_vlm), "--device=cpu"]) == 2
    error = capsys.readouterr().err
    assert "the weights in float32 need" in error and "but cpu has only 0.0 GiB free" in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_a_gpu_that_is_not_there(tiny_vlm, capsys):
    assert main(["bench", "--model", str(tiny_vlm), "--device=cuda"]) == 2
    assert capsys.readouterr().err == "error: --device is cuda, but there is no GPU\n"


def test_bench_needs_neither_datasets_nor_jsonargparse():
    absent = "import sys; sys.modules['datasets'] = sys.modules['jsonargparse'] = None"
    code = f"{absent}; import yopo_train.bench.command, yopo_train.progress"
    subprocess.run([sys.executable, "-c", code], check=True)
