"""The published folder: what is in it, that peft alone loads it, and that it tells nothing of the machine."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from finished_run import SECRET, finished_run
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open

from yopo_train.errors import UserError
from yopo_train.hub.contents import FILES, is_exported
from yopo_train.hub.folder import check, export
from yopo_train.hub.load import load
from yopo_train.hub.private import local_paths, scrub
from yopo_train.plan import PruningPlan


@pytest.fixture
def copy(run, tmp_path) -> Path:
    """A run that a test may damage."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def all_text(folder: Path) -> str:
    """Every byte of a folder that is no tensor: headers of safetensors files included."""
    texts = []
    for path in sorted(folder.iterdir()):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                texts.append(json.dumps(file.metadata()))
        elif path.suffix != ".png":
            texts.append(path.read_text("utf-8"))
    return "\n".join(texts)


def test_an_adapter_with_its_plan(run, named):
    out = named
    assert {path.name for path in out.iterdir()} == set(FILES)
    found = check(out, publish=True)
    assert (found.kind, found.base_model, found.revision) == ("adapter", "org/tiny-vlm", None)
    assert found.plan.id == PruningPlan.load(run / "plan.safetensors").id and set(found.files) == set(FILES)
    settings = json.loads((out / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == found.plan.base_model == found.scores.base_model == "org/tiny-vlm"
    assert yaml.safe_load((out / "config.yaml").read_text())["model"]["base"] == "org/tiny-vlm"
    assert Image.open(out / "heads.png").size[0] > 100


def test_no_local_path_leaks(run, named, published, tiny_vlm):
    for folder in (named, published):
        text = all_text(folder)
        for secret in ("somebody", SECRET, "/mnt", "/srv", str(tiny_vlm), str(run), str(run.parent.parent)):
            assert secret not in text, secret
        assert "heads.npy" in text and "questions, split 'calibration' f00" in text


def test_a_base_without_a_name_is_null(published):
    found = check(published, publish=True)
    assert found.base_model is None and found.plan.base_model is None
    assert json.loads((published / "adapter_config.json").read_text())["base_model_name_or_path"] is None
    assert "nobody has given a name" in (published / "README.md").read_text()


def test_a_base_from_the_hub_keeps_its_name_and_gets_its_commit(copy, tmp_path):
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["model"] |= {"base": "org/on-the-hub", "revision": "main"}
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    plan = PruningPlan.load(copy / "plan.safetensors")
    plan.revision = "0123456789abcdef0123456789abcdef01234567"
    plan.save(copy / "plan.safetensors")
    found = check(export(copy, tmp_path / "out"), publish=True)
    assert (found.base_model, found.revision) == ("org/on-the-hub", plan.revision)
    with pytest.raises(UserError, match=r"base_model is org/other, but .* was made from org/on-the-hub"):
        export(copy, tmp_path / "out", base_model="org/other")


def test_a_relative_base_is_found_from_where_the_run_was_started(copy, tmp_path, tiny_vlm):
    """data/tiny-vlm could be a Hub id, too."""
    shutil.copytree(tiny_vlm, tmp_path / "data" / "tiny-vlm")
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["model"]["base"], config["run_dir"] = "data/tiny-vlm", "run"
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    assert check(export(copy, tmp_path / "out"), publish=True).base_model is None


def test_a_relative_base_is_no_hub_id_wherever_one_is(copy, tmp_path):
    """The run's folder was given with its whole path, so nothing says where data/ is; but the Hub has commits."""
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["model"]["base"], config["run_dir"] = "data/some-vlm", str(copy)
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    assert check(export(copy, tmp_path / "out"), publish=True).base_model is None
    with pytest.raises(UserError, match=r"cannot load the config.json of '/.*data/some-vlm': there is no such folder"):
        load(copy)


@pytest.mark.parametrize("notes", ["my notes", "---\nlicense: mit\n---\nmine", "---\nlibrary_name: peft\n---\nmine"])
def test_a_run_with_notes_is_a_run(copy, tmp_path, notes, caplog):
    (copy / "README.md").write_text(notes)
    assert not is_exported(copy)
    if "library_name" not in notes:
        shutil.rmtree(copy / "adapter")
        assert not is_exported(copy)
    assert is_exported(export(copy, tmp_path / "out"))
    (tmp_path / "out" / "README.md").write_text("my notes")
    with pytest.raises(UserError, match="the card has no metadata"):
        check(tmp_path / "out", publish=True)
    assert not caplog.text


def test_a_plan_without_any_training(tmp_path, tiny_vlm):
    run = finished_run(tmp_path / "run", tiny_vlm, trained=False)
    found = check(export(run.path, tmp_path / "out", base_model="org/tiny-vlm"), publish=True)
    assert (found.kind, found.base_model) == ("plan", "org/tiny-vlm")
    assert set(found.files) == set(FILES) - {"adapter_config.json", "adapter_model.safetensors"}


def test_an_adapter_without_a_plan(tmp_path, tiny_vlm):
    run = finished_run(tmp_path / "run", tiny_vlm, pruned=False)
    found = check(export(run.path, tmp_path / "out", base_model="org/tiny-vlm"), publish=True)
    assert (found.kind, found.plan, found.scores) == ("adapter", None, None)
    assert "Nothing is pruned" in (tmp_path / "out" / "README.md").read_text()


PLAIN_PEFT = """
import sys, warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")  # peft's own, of any adapter
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText
base, folder, inputs, logits = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(base)
model = PeftModel.from_pretrained(model, folder).eval()
with torch.no_grad():
    torch.save(model(**torch.load(inputs)).logits, logits)
assert not any(name.startswith("yopo") for name in sys.modules)
"""


def test_plain_peft_loads_it_in_a_process_without_yopo_train(named, tmp_path, tiny_vlm):
    ids = torch.tensor([[1, 40, *[3] * 144, 50, 60, 70]])
    inputs = {"input_ids": ids, "pixel_values": torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))}
    torch.save(inputs, tmp_path / "inputs.pt")
    command = [sys.executable, "-c", PLAIN_PEFT, tiny_vlm, named, tmp_path / "inputs.pt", tmp_path / "logits.pt"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "arn" not in result.stderr, result.stderr
    dense, _ = load(named, base=tiny_vlm, pruned=False)
    plain, _ = load(tiny_vlm)
    with torch.no_grad():
        expected, without = dense(**inputs).logits, plain(**inputs).logits
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), expected, atol=1e-5, rtol=1e-5)
    assert (expected - without).abs().max() > 1e-2


# -- what is refused ---------------------------------------------------------------------------------------------------
def test_unfinished_runs_and_wrong_names(copy, tmp_path):
    for options, message in [
        ({"base_model": "not a name"}, "base_model is 'not a name', expected a Hub id"),
        ({"license": "My Own"}, "license is 'My Own'"),
        ({"adapter": tmp_path / "none"}, "no adapter_config.json in it"),
    ]:
        with pytest.raises(UserError, match=message):
            export(copy, tmp_path / "out", **options)
    with pytest.raises(UserError, match="no such folder"):
        export(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(UserError, match="is an adapter's folder already"):
        export(copy / "adapter", tmp_path / "out")
    shutil.copytree(copy / "adapter", copy / "model")
    with pytest.raises(UserError, match=r"full finetune .* yopo-train merge"):
        export(copy, tmp_path / "out")
    for part in ("model", "adapter"):
        shutil.rmtree(copy / part)
    (copy / "plan.safetensors").unlink()
    with pytest.raises(UserError, match=r"no adapter/ and no plan.safetensors"):
        export(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_an_earlier_export_is_replaced(run, copy, tmp_path):
    out = export(run, tmp_path / "out")
    assert export(run, out, base_model="org/tiny-vlm") == out
    assert check(out).base_model == "org/tiny-vlm"
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"thesis.txt, which is no part"):
        export(run, out)
    for own in (copy, copy / "adapter", copy.parent):
        with pytest.raises(UserError, match=f"{own}: is, or holds, "):
            export(copy, own)
    assert (out / "thesis.txt").exists() and (copy / "adapter" / "adapter_config.json").exists()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "adapter_config.json",
            lambda text: text.replace("org/tiny-vlm", "/home/me/vlm"),
            "adapter is for /home/me/vlm",
        ),
        (
            "results.json",
            lambda text: text.replace("a toaster,", "/home/me/toaster"),
            "results.json: environment.hardware",
        ),
        ("config.yaml", lambda text: text.replace("org/tiny-vlm", "/home/me/vlm"), "config.yaml: model.base holds the"),
        ("README.md", lambda text: "# A card\n", "the card has no metadata"),
        ("README.md", lambda text: "---\n- a list\n---\n", "not a valid model card"),
        ("config.yaml", lambda text: "a: [", "not readable as YAML"),
    ],
)
def test_what_must_not_be_sent(named, tmp_path, name, change, message):
    out = Path(shutil.copytree(named, tmp_path / "out"))
    (out / name).write_text(change((out / name).read_text()))
    with pytest.raises(UserError, match=message):
        check(out, publish=True)


def test_folders_with_nothing_to_load(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        check(tmp_path / "nothing")
    with pytest.raises(UserError, match="expected one of them"):
        check(tmp_path)


# -- local paths -------------------------------------------------------------------------------------------------------
names = st.text("abcXYZ019_-", min_size=1, max_size=8)


@given(st.lists(names, min_size=2, max_size=5), st.sampled_from(["/", "~/", "../", "C:\\", "file:///"]), names)
def test_paths_are_found_and_shortened(parts, root, word):
    path = root + "/".join(parts)
    for text in (path, f"{word} {path}", f"--{word}={path}", f"'{path}' {word}", f"{word}, {path}, {word}"):
        assert path in next(local_paths({"a": [text]}))[1]
        clean = scrub({"a": [text]})["a"][0]
        assert not list(local_paths(clean)) and parts[-1] in clean


@pytest.mark.parametrize(
    "text",
    ["org/model", "data/tiny-vqa", "https://huggingface.co/org/model", "</s>", "1/2", "tokens / s", "a or/and b", "/"],
)
def test_what_is_no_local_path(text):
    assert scrub(text) == text and not list(local_paths(text))
