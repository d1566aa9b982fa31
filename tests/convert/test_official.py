"""The plan of a pruned checkpoint of YOPO's authors computes what their code does, in the reference backend."""

import numpy as np
import pytest
import torch

from convert.llava_original import HEADS, IMAGE, LAYERS, PRUNED, VOCABULARY, write_original
from convert.plain_llava import Pruned, original_logits
from yopo_train.convert import convert_llava
from yopo_train.models import load_base
from yopo_train.plan import PruningPlan
from yopo_train.pruning import prune


@pytest.mark.parametrize("window", [3, 5, 99])
@pytest.mark.parametrize("depth", [1, 2, LAYERS])
def test_reference_backend_is_the_authors_code(window, depth, tmp_path):
    fields = {**PRUNED, "attncut_w": window, "layercut_num": depth}
    tensors = write_original(tmp_path / "original", tmp_path / "clip", **fields)
    heads = np.random.default_rng(1).integers(0, 2, (LAYERS, HEADS))
    np.save(tmp_path / "mask.npy", heads)
    convert_llava(tmp_path / "original", tmp_path / "new", head_mask=tmp_path / "mask.npy")
    model, _ = load_base(tmp_path / "new")
    prune(model, PruningPlan.load(tmp_path / "new" / "plan.safetensors"), backend="reference")
    before, after = torch.tensor([1, 20, 300]), torch.tensor([7, 8, 90, 11])
    pixels = torch.randn(1, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(0))
    ids = torch.cat([before, torch.full((16,), model.config.image_token_id), after])
    with torch.no_grad():
        found = model(input_ids=ids[None], pixel_values=pixels, use_cache=False).logits[0, :, :VOCABULARY]
    pruned = Pruned(torch.from_numpy(heads).float(), window, depth, PRUNED["mlpcut_ratio"])
    expected = original_logits(tensors, before, after, pixels, pruned)
    text = ids != model.config.image_token_id
    torch.testing.assert_close(found[text], expected[text], atol=1e-4, rtol=1e-4)
