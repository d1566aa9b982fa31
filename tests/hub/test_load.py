"""``yopo_train.load``: base, plan and adapter together, whatever it is given, and never on another base."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from finished_run import finished_run
from peft import PeftModel
from toy import random_plan, toy_dims

import yopo_train
from yopo_train.errors import UserError
from yopo_train.hub.folder import export
from yopo_train.models import load_base
from yopo_train.models.architecture import architecture
from yopo_train.models.tiny import build_tiny
from yopo_train.plan import PruningPlan
from yopo_train.pruning import active_plan, prune
from yopo_train.recovery import load_adapter

IMAGE = 3
IDS = torch.tensor([[1, 40, *[IMAGE] * 144, 50, 60, 70]])
BATCH = {
    "input_ids": IDS,
    "attention_mask": torch.ones_like(IDS),
    "pixel_values": torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)),
}


@pytest.fixture(scope="module")
def folder(published):
    return published


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(**BATCH).logits[IDS != IMAGE]


@pytest.fixture(scope="module")
def expected(run, tiny_vlm):
    """Of the model as the run had it in memory."""
    model = prune(load_base(tiny_vlm)[0], PruningPlan.load(run / "plan.safetensors"))
    return logits(load_adapter(model, run / "adapter"))


def test_a_published_folder_is_pruned_and_has_its_adapter(folder, tiny_vlm, expected):
    model, processor = yopo_train.load(folder, base=tiny_vlm)
    assert isinstance(model, PeftModel) and not model.training and processor.image_token == "<image>"
    assert active_plan(model).depth == 6
    torch.testing.assert_close(logits(model), expected)
    plain = logits(yopo_train.load(tiny_vlm)[0])
    assert (plain - expected).abs().max() > 1e-2


def test_a_run_folder_knows_its_base(run, expected):
    torch.testing.assert_close(logits(yopo_train.load(run)[0]), expected)


def test_the_adapters_own_folder_in_a_run(run, tiny_vlm):
    model, _ = yopo_train.load(run / "adapter")
    assert active_plan(model) is None and isinstance(model, PeftModel)


def test_the_adapter_merged_on_loading(folder, tiny_vlm, expected):
    model, _ = yopo_train.load(str(folder), base=str(tiny_vlm), merge=True)
    assert not isinstance(model, PeftModel) and active_plan(model) is not None
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)


def test_a_plan_alone_and_another_type(tmp_path, tiny_vlm):
    run = finished_run(tmp_path / "run", tiny_vlm, trained=False)
    out = export(run.path, tmp_path / "out")
    model, _ = yopo_train.load(out, base=tiny_vlm, dtype="bfloat16", device_map="cpu")
    assert model.dtype == torch.bfloat16 and active_plan(model).id == PruningPlan.load(run.plan).id
    assert active_plan(yopo_train.load(out, base=tiny_vlm, pruned=False)[0]) is None


def test_a_plain_base_as_ever(tiny_vlm):
    model, _ = yopo_train.load(tiny_vlm, None, "float32")
    assert active_plan(model) is None and not isinstance(model, PeftModel)


def test_the_folder_of_a_model_with_a_plan_beside_it(tiny_vlm, tmp_path):
    """A merged model, or a converted one; the authors' masking is what the reference backend computes."""
    both = Path(shutil.copytree(tiny_vlm, tmp_path / "both"))
    plan = random_plan(toy_dims(load_base(tiny_vlm)[0]), depth=8, radius=None)
    for semantics in ("compact", "official"):
        plan.semantics = semantics
        plan.save(both / "plan.safetensors")
        model, _ = yopo_train.load(both)
        assert active_plan(model).semantics == semantics and logits(model).isfinite().all()


# -- what is refused ---------------------------------------------------------------------------------------------------
def test_no_base_is_named(folder):
    with pytest.raises(UserError, match=r"names no base model .* expected base"):
        yopo_train.load(folder)


def test_other_weights_of_the_same_dimensions(folder, tmp_path):
    build_tiny(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=r"other is not the base model that .*: the weights of layer 0 differ"):
        yopo_train.load(folder, base=tmp_path / "other")


def edited(tiny_vlm: Path, target: Path, part: str | None, **values) -> Path:
    """A base whose config.json says something else."""
    shutil.copytree(tiny_vlm, target)
    config = json.loads((target / "config.json").read_text())
    (config if part is None else config[part]).update(values)
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("text_config", {"num_hidden_layers": 7}, "layers = 7, but the plan was made for a model with layers = 8"),
        ("text_config", {"rms_norm_eps": 1e-3}, "text.rms_norm_eps = 1e-06, but .* has 0.001 in its config.json"),
        ("vision_config", {"image_size": 48}, "vision.image_size = 96, but .* has 48"),
        (None, {"vision_feature_layer": -2}, "vision_feature_layer = -1, but .* has -2"),
    ],
)
def test_a_base_of_another_config(folder, tiny_vlm, tmp_path, part, values, message):
    with pytest.raises(UserError, match=message):
        yopo_train.load(folder, base=edited(tiny_vlm, tmp_path / "other", part, **values))


def test_a_plan_of_an_older_version_has_no_architecture_to_compare(folder, tiny_vlm, tmp_path):
    plan = PruningPlan.load(folder / "plan.safetensors")
    assert plan.architecture == architecture(load_base(tiny_vlm)[0].config)
    old = Path(shutil.copytree(folder, tmp_path / "old"))
    plan.architecture = {}
    plan.save(old / "plan.safetensors")
    other = edited(tiny_vlm, tmp_path / "other", "text_config", rms_norm_eps=1e-3)
    assert active_plan(yopo_train.load(old, base=other)[0]) is not None


def test_an_adapter_on_several_devices(folder, tiny_vlm, monkeypatch):
    monkeypatch.setattr("yopo_train.hub.load.is_dispatched", lambda model: True)
    with pytest.raises(UserError, match="device_map is auto, expected one device for a model with an adapter"):
        yopo_train.load(folder, base=tiny_vlm, device_map="auto")


def test_unfinished_runs_and_unknown_names(run, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    shutil.copy(run / "config.yaml", tmp_path / "run")
    with pytest.raises(UserError, match=r"no plan.safetensors, no adapter/ and no model/ yet"):
        yopo_train.load(tmp_path / "run")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"cannot load the config.json of 'no/such-model'"):
        yopo_train.load("no/such-model")
    with pytest.raises(UserError, match="there is no such folder"):
        yopo_train.load(str(tmp_path / "nothing"))


def test_a_mistyped_name_is_not_the_base_alone(tmp_path, tiny_vlm):
    with pytest.raises(UserError, match=r"nothing holds no adapter and no plan of a base"):
        yopo_train.load(tmp_path / "nothing", base=tiny_vlm)


def test_weights_in_a_pickle_are_not_read(tiny_vlm, tmp_path):
    folder = Path(shutil.copytree(tiny_vlm, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors")))
    torch.save(load_base(tiny_vlm)[0].state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot load the weights"):
        yopo_train.load(folder)


def test_weights_and_a_plan_of_different_runs(folder, tiny_vlm, tmp_path):
    mixed = Path(shutil.copytree(folder, tmp_path / "mixed"))
    dims = PruningPlan.load(folder / "plan.safetensors").dims
    random_plan(dims, depth=3, radius=1).save(mixed / "plan.safetensors")
    with pytest.raises(UserError, match=r"mixed: was trained under plan \w+, but plan.safetensors is plan \w+"):
        yopo_train.load(mixed, base=tiny_vlm)


def test_a_full_finetune_is_the_runs_own_model(run, tiny_vlm, tmp_path):
    full = Path(shutil.copytree(run, tmp_path / "full", ignore=shutil.ignore_patterns("adapter")))
    build_tiny(full / "model", seed=1)
    model, _ = yopo_train.load(full)
    other = prune(load_base(full / "model")[0], PruningPlan.load(run / "plan.safetensors"))
    torch.testing.assert_close(logits(model), logits(other))


def test_a_repository_in_the_cache_is_loaded_offline(folder, tiny_vlm, tmp_path, monkeypatch, expected):
    """The base of a published folder is on the Hub, too; both from huggingface_hub's cache."""
    commit, cache = "0123456789abcdef0123456789abcdef01234567", tmp_path / "cache"
    for source, name in ((folder, "models--me--adapter"), (tiny_vlm, "models--org--tiny")):
        shutil.copytree(source, cache / name / "snapshots" / commit)
        (cache / name / "refs").mkdir()
        (cache / name / "refs" / "main").write_text(commit)
    settings = cache / "models--me--adapter" / "snapshots" / commit / "adapter_config.json"
    named = json.loads(settings.read_text()) | {"base_model_name_or_path": "org/tiny", "revision": commit}
    settings.write_text(json.dumps(named))
    for module in ("huggingface_hub.constants", "transformers.utils.hub.constants"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", True)
    model, _ = yopo_train.load("me/adapter", revision="main")
    torch.testing.assert_close(logits(model), expected)
    plain = yopo_train.load("org/tiny")[0]
    assert active_plan(plain) is None and plain.config._commit_hash == commit  # what calibration records
    # a merged model is a complete one, with a plan beside it
    shutil.copytree(cache / "models--org--tiny", cache / "models--me--merged")
    shutil.copy(folder / "plan.safetensors", cache / "models--me--merged" / "snapshots" / commit)
    model, _ = yopo_train.load("me/merged")
    assert active_plan(model).depth == 6 and not isinstance(model, PeftModel)
