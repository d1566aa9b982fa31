"""``yopo-train merge``: complete weights, dense for transformers, pruned for `load`; all of a folder or nothing."""

import shutil
from pathlib import Path

import pytest
import torch
from finished_run import finished_run, with_adapter
from peft import PeftModel
from toy import text_logits, toy_batch, toy_llava
from transformers import AutoModelForImageTextToText, AutoProcessor

import yopo_train
from yopo_train.cli import main
from yopo_train.errors import UserError
from yopo_train.hub.folder import check
from yopo_train.hub.merge import merge, merged
from yopo_train.models import load_base
from yopo_train.models.tiny import build_tiny
from yopo_train.pruning import active_plan
from yopo_train.recovery import LoraOptions, attach_lora, load_adapter, save_adapter

IDS = torch.tensor([[1, 40, *[3] * 144, 50, 60, 70]])
PIXELS = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, pixel_values=PIXELS).logits[IDS != 3]


def test_dense_in_transformers_and_pruned_in_load(run, tmp_path, tiny_vlm, capsys):
    out = tmp_path / "out"
    assert main(["merge", str(run), str(out), "--base_model", "org/tiny", "--max_shard_size", "5MB"]) == 0
    assert len(list(out.glob("model-*.safetensors"))) > 1 and (out / "model.safetensors.index.json").is_file()
    found = check(out, publish=True)
    assert (found.kind, found.base_model, found.plan.base_model) == ("model", "org/tiny", "org/tiny")
    dense = AutoModelForImageTextToText.from_pretrained(out)
    torch.testing.assert_close(logits(dense), logits(yopo_train.load(run, pruned=False)[0]), atol=1e-4, rtol=1e-4)
    assert AutoProcessor.from_pretrained(out).image_token == "<image>"
    pruned, _ = yopo_train.load(out)
    assert active_plan(pruned).id == found.plan.id and not isinstance(pruned, PeftModel)
    torch.testing.assert_close(logits(pruned), logits(yopo_train.load(run)[0]), atol=1e-4, rtol=1e-4)
    card = (out / "README.md").read_text()
    assert "library_name: transformers" in card and "base_model_relation: finetune" in card and "peft" not in card
    text = "".join(path.read_text("utf-8") for path in out.iterdir() if path.suffix in (".json", ".md", ".yaml"))
    assert str(tiny_vlm) not in text and "somebody" not in text


def test_bfloat16_is_rounded_once(tiny_vlm):
    """The sum in float32 and one rounding: closer to the truth than peft's own, which rounds the update first."""
    base = {name: weight.clone() for name, weight in load_base(tiny_vlm, dtype="bfloat16")[0].state_dict().items()}
    model = with_adapter(load_base(tiny_vlm, dtype="bfloat16")[0])
    updates = {
        name.removeprefix("base_model.model."): layer.get_delta_weight("default")
        for name, layer in model.named_modules()
        if hasattr(layer, "lora_A") and hasattr(layer, "base_layer")
    }
    assert len(updates) == 8 * 7
    plain = merged(model, "it")
    for name, update in updates.items():
        exact = (base[f"{name}.weight"].float() + update).bfloat16()
        assert torch.equal(plain.get_parameter(f"{name}.weight").data, exact), name
    assert not any("lora" in name for name, _ in plain.named_parameters()) and plain.dtype == torch.bfloat16
    adapted = with_adapter(load_base(tiny_vlm, dtype="bfloat16")[0])
    assert (logits(plain) - logits(adapted)).abs().max() < 0.05 * logits(adapted).abs().max()


def test_a_published_folder_and_a_full_finetune(run, published, tmp_path, tiny_vlm):
    out = merge(published, tmp_path / "out", base=tiny_vlm)
    torch.testing.assert_close(logits(yopo_train.load(out)[0]), logits(yopo_train.load(run)[0]), atol=1e-4, rtol=1e-4)
    assert check(out, publish=True).base_model is None
    full = Path(shutil.copytree(run, tmp_path / "full", ignore=shutil.ignore_patterns("adapter")))
    build_tiny(full / "model", seed=1)
    out = merge(full, tmp_path / "full-out", base_model="org/tiny")
    assert check(out, publish=True).base_model == "org/tiny"
    torch.testing.assert_close(logits(yopo_train.load(out)[0]), logits(yopo_train.load(full)[0]))


def test_what_is_refused_leaves_nothing(run, tmp_path, tiny_vlm, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is not empty"):
        merge(run, tmp_path / "there")
    with pytest.raises(UserError, match="lies inside the source"):
        merge(run, run / "merged")
    with pytest.raises(UserError, match="holds no adapter, so there is nothing to merge"):
        merge(tiny_vlm, tmp_path / "out")
    alone = finished_run(tmp_path / "alone", tiny_vlm, trained=False)
    with pytest.raises(UserError, match="nothing to merge"):
        merge(alone.path, tmp_path / "out")
    with pytest.raises(UserError, match="cannot be saved"):
        merge(run, tmp_path / "out", max_shard_size="huge")

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("yopo_train.hub.merge.write_about", full_disk)
    with pytest.raises(UserError, match="out: cannot be written: No space left on device"):
        merge(run, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "there"]


def test_an_adapter_that_breaks_a_weight(tiny_vlm):
    model = with_adapter(load_base(tiny_vlm, dtype="float16")[0])
    with torch.no_grad():
        next(weight for name, weight in model.named_parameters() if "lora_B" in name).fill_(1e6)
    with pytest.raises(UserError, match=r"it: .*layers.0.self_attn.q_proj is not finite in torch.float16"):
        merged(model, "it")


BATCH = toy_batch([[3, "image", 5]])


@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True},
        {"init_lora_weights": "pissa"},
        {"use_rslora": True, "rank_pattern": {"q_proj": 3}, "projector": True},
        {"modules_to_save": ["multi_modal_projector"]},
        {"trainable_token_indices": [5, 7]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_every_kind_of_adapter(options, tmp_path):
    model = attach_lora(toy_llava(), LoraOptions(r=2, **options)).eval()
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    expected = text_logits(model, BATCH)
    save_adapter(model, tmp_path / "adapter", "org/base", None)
    plain = merged(load_adapter(toy_llava(), tmp_path / "adapter"), "it")
    torch.testing.assert_close(text_logits(plain, BATCH), expected, atol=1e-4, rtol=1e-4)
    assert plain.state_dict().keys() == toy_llava().state_dict().keys()
    assert (expected - text_logits(toy_llava(), BATCH)).abs().max() > 1e-2
