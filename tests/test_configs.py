"""The shipped configurations, each run on a tiny model of its family."""

from pathlib import Path

import pytest
import yaml
from families import (
    internvl,
    internvl2_internlm2,
    internvl2_phi3,
    llava,
    llava_next,
    llava_onevision,
    qwen2_5_vl,
    qwen2_vl,
    qwen3_vl,
)
from question_sets import make_row, write_split
from safetensors import safe_open

from yopo_train.calibration import PlanConfig
from yopo_train.cli import main
from yopo_train.plan import PruningPlan

CONFIGS = Path(__file__).parents[1] / "configs"
TWINS = {
    "llava15": llava,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "qwen2vl": qwen2_vl,
    "qwen25vl": qwen2_5_vl,
    "qwen3vl": qwen3_vl,
    "internvl2_4b": internvl2_phi3,
    "internvl2": internvl2_internlm2,
    "internvl3": internvl,
}
FILES = {file.stem: file for file in sorted(CONFIGS.glob("*.yaml")) if not file.stem.startswith("tiny")}
SMALL = """
model: {dtype: float32, max_new_tokens: 2, gradient_checkpointing: true}
data: {batch_size: 2, eval_batch_size: 2, calibration_samples: 2, num_workers: 0}
trainer: {max_steps: 1, devices: 1, strategy: auto, accelerator: cpu, precision: 32-true, accumulate_grad_batches: 1}
"""


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """Folders of tiny models with processors, by the start of a configuration's name."""
    folders = {}
    for name, family in TWINS.items():
        folders[name] = tmp_path_factory.mktemp(name)
        family.toy().save_pretrained(folders[name])
        family.toy_processor().save_pretrained(folders[name])
    return folders


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory):
    """A question set of two rows a split, with images that are no square."""
    folder = tmp_path_factory.mktemp("dialogues")
    for number, split in enumerate(("train", "calibration", "validation", "test")):
        write_split(folder, split, [make_row(10 * number + row, size=(40, 28)) for row in range(2)])
    return folder


def twin_of(twins, name):
    return next(folder for start, folder in twins.items() if name.startswith(start))


@pytest.mark.parametrize("name", FILES)
def test_a_run_on_its_tiny_twin(name, twins, dialogues, tmp_path, capsys):
    small = tmp_path / "small.yaml"
    small.write_text(SMALL)
    places = {"model.base": twin_of(twins, name), "data.path": dialogues, "run_dir": tmp_path / "run"}
    options = [f"--{key}={place}" for key, place in places.items()]
    if yaml.safe_load(FILES[name].read_text())["model"]["pruning"].get("method") == "auto":
        options += ["--model.pruning.evaluations=4"]
    assert main(["fit", "--config", str(FILES[name]), "--config", str(small), *options]) == 0, capsys.readouterr().err
    plan = PruningPlan.load(tmp_path / "run" / "plan.safetensors")
    assert not plan.is_dense
    with safe_open(tmp_path / "run" / "adapter" / "adapter_model.safetensors", "pt") as adapter:
        names = list(adapter.keys())
    assert names and all("language_model.layers." in name for name in names)


PAPER = {"llava15_7b_25": 25, "llava15_7b_12": 12, "llava15_13b_25": 25, "llava15_13b_12": 12}
PAPER |= {"qwen2vl_7b": 69, "internvl2_4b": 72, "internvl2_8b": 75, "internvl2_26b": 50}
"""Percent of the visual FLOPs that the paper keeps."""


@pytest.mark.parametrize("name", FILES)
def test_budgets_are_what_the_comments_say_and_the_papers(name):
    text = FILES[name].read_text()
    kept = round(100 * PlanConfig(**yaml.safe_load(text)["model"]["pruning"]).share)
    assert kept == PAPER.get(name, kept)
    assert f"{kept} % of the visual FLOPs" in " ".join(text.replace("\n# ", " ").split())
    assert PAPER.keys() <= FILES.keys()


@pytest.mark.parametrize("name", FILES)
def test_what_every_configuration_says(name):
    text = FILES[name].read_text()
    config, lines = yaml.safe_load(text), text.splitlines()
    assert lines[0] == f"# yopo-train fit --config configs/{name}.yaml"
    assert lines[1].startswith("# Meant for eight GPUs")
    assert config["trainer"]["devices"] == 8 and config["trainer"]["strategy"] == "ddp"
    rows = config["data"]["batch_size"] * config["trainer"]["accumulate_grad_batches"] * 8
    assert rows == 128, "the paper's global batch"
    assert ("yopo-train convert internvl2" in " ".join(lines).replace(" # ", " ")) == name.startswith("internvl2")
