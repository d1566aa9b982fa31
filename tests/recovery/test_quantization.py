"""A 4-bit base with an adapter under a plan; on a CPU, and skipped where bitsandbytes is not installed."""

import importlib.util

import pytest
import torch
from peft import PeftModel
from toy import random_plan, text_logits, toy_dims

from yopo_train.calibration.weight_norms import WeightNorms
from yopo_train.errors import UserError
from yopo_train.models import load_base
from yopo_train.pruning import prune
from yopo_train.recovery import DistillationOptions, LoraOptions, attach_lora, load_adapter, save_adapter
from yopo_train.recovery.distillation import make_loss


def test_without_bitsandbytes(tiny_vlm, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "yopo_train.models.quantization.find_spec", lambda name: None if name == "bitsandbytes" else found(name)
    )
    with pytest.raises(UserError, match=r"model\.quantization is nf4, .*pip install 'yopo_train\[qlora\]'"):
        load_base(tiny_vlm, quantization="nf4")


def batch_for(model) -> dict:
    """Two prompts of one image, the last tokens labelled."""
    size, generator = model.config.vision_config.image_size, torch.Generator().manual_seed(0)
    ids = torch.randint(20, 60, (2, 160), generator=generator)
    ids[:, 4:148] = model.config.image_token_id
    labels = torch.where(torch.arange(160) >= 154, ids, -100)
    pixels = torch.randn(2, 3, size, size, generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels, "labels": labels}


@pytest.mark.filterwarnings("ignore:.*cannot be sliced")
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_an_adapter_on_a_quantized_base_is_trained_under_a_plan(kind, tiny_vlm, tmp_path):
    pytest.importorskip("bitsandbytes")
    whole, _ = load_base(tiny_vlm, dtype="float32")
    model, _ = load_base(tiny_vlm, dtype="float32", quantization=kind)
    kinds = {name: type(module).__module__.split(".")[0] for name, module in model.named_modules()}
    quantized = {name for name, kind in kinds.items() if kind == "bitsandbytes"}
    assert len(quantized) == 8 * 7 and all("language_model.layers" in name for name in quantized)
    norms, expected = WeightNorms.of_model(model), WeightNorms.of_model(whole)
    torch.testing.assert_close(norms.columns.float(), expected.columns, rtol=0.1, atol=0.01)

    batch, plan = batch_for(model), random_plan(toy_dims(model), 3, 2)
    tuned = attach_lora(prune(model, plan), LoraOptions(r=4)).train()
    trained = {name: weight for name, weight in tuned.named_parameters() if weight.requires_grad}
    assert all("lora_" in name and weight.dtype == torch.float32 for name, weight in trained.items())
    optimizer, losses = torch.optim.AdamW(trained.values(), lr=5e-3), []
    loss = make_loss("ce+kd", DistillationOptions(weight=0.1))
    for _ in range(4):
        sums = loss(tuned, batch)
        (sums.total / sums.tokens).backward()
        assert all(weight.grad is not None for weight in trained.values())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(sums.total.detach()))
    assert losses[-1] < 0.95 * losses[0]

    save_adapter(tuned.eval(), tmp_path / "adapter", "org/base", None)
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "attention_mask")}
    inputs["attention_mask"] = batch["attention_mask"]
    plain = PeftModel.from_pretrained(load_base(tiny_vlm, dtype="float32")[0], tmp_path / "adapter")
    loaded = load_adapter(prune(whole, plan), tmp_path / "adapter")
    same = text_logits(prune(plain, plan), inputs)
    torch.testing.assert_close(text_logits(loaded, inputs), same, atol=1e-4, rtol=1e-4)
