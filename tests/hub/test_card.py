"""The card: front matter that the Hub's own library reads, numbers that are the run's, code that could run."""

import ast
import json
import re
import shutil
from pathlib import Path

import pytest
from finished_run import finished_run
from huggingface_hub import ModelCard, metadata_load

from yopo_train.errors import UserError
from yopo_train.hub.folder import export


def code_of(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_front_matter_and_model_index(named):
    data = ModelCard.load(named / "README.md").data
    assert metadata_load(named / "README.md")["model-index"][0]["name"] == "tiny-vlm-yopo-lora"
    assert (data.base_model, data.base_model_relation, data.library_name) == ("org/tiny-vlm", "adapter", "peft")
    assert (data.pipeline_tag, data.license) == ("image-text-to-text", "other")
    assert data.license_link == "https://huggingface.co/org/tiny-vlm"
    assert {"yopo", "lora", "llava", "arxiv:2410.06169"} <= set(data.tags)
    found = {(result.dataset_name, result.metric_type, result.metric_name): result for result in data.eval_results}
    own = found["questions", "exact_match", "Exact match, %"]
    assert (own.metric_value, own.dataset_split, own.dataset_type) == (92.0, "test", "questions")  # recovered, not base
    assert found["questions", "exact_match", "Exact match (colour), %"].metric_value == 80.0
    pope = found["POPE (12 items)", "f1_mean", "f1_mean, protocol llava"]
    assert (pope.metric_value, pope.dataset_type) == (81.5, "lmms-lab-encoder/POPE")


def test_the_card_survives_being_read_and_written(named, tmp_path):
    card = ModelCard.load(named / "README.md")
    card.save(tmp_path / "again.md")
    assert (tmp_path / "again.md").read_text() == (named / "README.md").read_text()


def test_text(named):
    text = ModelCard.load(named / "README.md").text
    for part in ("Results", "How to load it", "The plan", "How it was made", "Limits"):
        assert f"## {part}\n" in text
    header = next(line for line in text.splitlines() if line.startswith("| ") and "recovered" in line)
    assert re.findall(r"\w+", header) == ["base", "pruned", "recovered"]
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    assert {"visual FLOPs", "prefill ms", "KV cache", "accuracy %", "&emsp;colour"} <= rows.keys()
    assert "20.00" in rows["prefill ms"] and "8.00" in rows["prefill ms"]
    assert "a toaster, 2 threads, float32, batch 8: pruned is 2.50 times faster" in text
    assert "- hardware: a toaster, 2 cores" in text
    assert "Calibrated on 5 samples (questions, split 'calibration' f00)" in text
    assert "POPE f1_mean of 12 items" in text
    picture = re.search(r"!\[.*\]\((.*)\)", text)[1]
    assert (named / picture).is_file()


def test_both_ways_to_load_are_code(run, tmp_path):
    text = (
        export(run, tmp_path / "out", base_model="org/vlm", repo_id="me/vlm-yopo", license="mit") / "README.md"
    ).read_text()
    assert "license: mit" in text and "\n# vlm-yopo\n" in text
    fast, plain = code_of(text)
    for code in (fast, plain):
        ast.parse(code)
    assert 'yopo_train.load("me/vlm-yopo")' in fast and "base=" not in fast
    assert 'PeftModel.from_pretrained(model, "me/vlm-yopo")' in plain and 'base = "org/vlm"' in plain
    assert "yopo_train" not in plain


def test_without_a_name_of_the_base(published):
    card = ModelCard.load(published / "README.md")
    assert card.data.base_model is None and "license_link" not in card.data.to_dict()
    fast, plain = code_of(card.text)
    assert 'base="path/to/tiny"' in fast and 'base = "path/to/tiny"' in plain


def test_a_plan_alone(tmp_path, tiny_vlm):
    run = finished_run(tmp_path / "run", tiny_vlm, trained=False)
    card = ModelCard.load(export(run.path, tmp_path / "out", base_model="org/tiny-vlm") / "README.md")
    assert (card.data.library_name, card.data.eval_results[0].metric_value) == ("yopo-train", 91.0)  # pruned
    assert "lora" not in card.data.tags and "made without any training" in card.text
    assert len(code_of(card.text)) == 1 and "Trained" not in card.text


def test_a_run_that_was_not_scored(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "results.json").unlink()
    card = ModelCard.load(export(copy, tmp_path / "out") / "README.md")
    assert card.data.eval_results is None and "It was not scored" in card.text and "## Results" not in card.text


@pytest.mark.parametrize("results", [{"test": {"recovered": {}}}, {"cost": {"pruned": {}}}, {"test": "x"}])
def test_damaged_results(run, tmp_path, results):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "results.json").write_text(json.dumps(results))
    with pytest.raises(UserError, match=r"no card can be made of the run's results"):
        export(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_from_files_are_no_markup(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    results = json.loads((copy / "results.json").read_text())
    results["environment"]["hardware"] = "<script>alert(1)</script>"
    (copy / "results.json").write_text(json.dumps(results))
    text = (export(copy, tmp_path / "out") / "README.md").read_text()
    assert r"\<script>" in text and "<" not in text.replace(r"\<", "")
