"""Weights that bitsandbytes has quantized, on a CPU; skipped where it is not installed (`pip install bitsandbytes`)."""

from pathlib import Path

import pytest
import torch
from toy import random_plan, toy_dims
from transformers import BitsAndBytesConfig, LlavaForConditionalGeneration

from yopo_train.pruning import prune, unprune

bitsandbytes = pytest.importorskip("bitsandbytes")

MODEL = Path(__file__).parents[2] / "data" / "tiny-vlm"  # the toys' layers are smaller than a block of 64 weights
OUTSIDE = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]
KINDS = {
    "8bit": {"load_in_8bit": True},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32},
}


@pytest.mark.parametrize("kind", KINDS)
def test_quantized_layers_compute_what_the_reference_does(kind):
    config = BitsAndBytesConfig(**KINDS[kind], llm_int8_skip_modules=OUTSIDE)
    model = LlavaForConditionalGeneration.from_pretrained(
        MODEL, quantization_config=config, device_map="cpu", dtype=torch.float32
    ).eval()
    assert type(model.model.language_model.layers[0].mlp.up_proj).__module__.startswith("bitsandbytes")
    size = model.config.vision_config.image_size
    ids = torch.randint(20, 60, (2, 160), generator=torch.Generator().manual_seed(0))
    ids[:, 4:148] = model.config.image_token_id
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}

    @torch.no_grad()
    def logits(**options):
        return model(**batch, **options).logits[:, 148:]

    stock, plan = logits(), random_plan(toy_dims(model), 3, 1, seed=1)
    prune(model, plan, "reference")
    expected = logits(use_cache=False)
    unprune(model)
    with pytest.warns(UserWarning, match="cannot be sliced .*bitsandbytes"):
        prune(model, plan)
    # bitsandbytes rounds activations to 8 or 16 bits, on the CPU too
    assert (logits() - expected).abs().max() < 0.02 * (expected - stock).abs().max()
    assert torch.equal(unprune(model)(**batch).logits[:, 148:], stock)
