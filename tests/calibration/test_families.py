"""Statistics of every family's own attention: grouped heads, norms of queries and keys, mRoPE."""

import pytest
import torch
from families import FAMILIES

from yopo_train.calibration import calibrate
from yopo_train.models.prompt import real_tokens, visual_mask


@pytest.mark.parametrize("name", FAMILIES)
def test_head_ratio_equals_that_of_eager_attention(name):
    model = FAMILIES[name].toy()
    batch = FAMILIES[name].toy_inputs(model, [[3, "image", 4], [2, "image", 1, "image", 2]])
    rho = calibrate(model, [batch]).rho
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = torch.stack(
            model(**batch, output_attentions=True).attentions, dim=1
        )  # (batch, layers, heads, ...)
    visual, real = visual_mask(model, batch), real_tokens(batch)
    for row, weights in enumerate(attentions):
        behind = real[row] & ~visual[row] & (visual[row].cumsum(0) > 0)
        asked = weights[:, :, behind]
        ratio = asked[..., visual[row]].sum((-1, -2)) / asked[..., real[row] & ~visual[row]].sum((-1, -2))
        torch.testing.assert_close(rho[row], ratio, rtol=1e-4, atol=1e-6)
