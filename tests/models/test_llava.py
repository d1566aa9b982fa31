"""The LLaVA family: which grids its visual tokens fill, and which towers have none."""

import pytest
import torch
from toy import toy_llava
from transformers import SiglipVisionConfig

from yopo_train.errors import UserError
from yopo_train.models import family_of

CLIP, SIGLIP = toy_llava().config, toy_llava(tower=SiglipVisionConfig).config


def first_visual(*counts):
    """Bool ``(batch, tokens)``: so many visual tokens in front of each sample."""
    return torch.arange(40) < torch.tensor(counts)[:, None]


@pytest.mark.parametrize("config", [CLIP, SIGLIP], ids=["clip", "siglip"])
def test_grid_of_every_image(config):
    assert family_of(config).grids(config, first_visual(32, 0, 16), {}) == [[(1, 4, 4)] * 2, [], [(1, 4, 4)]]


@pytest.mark.parametrize(
    ("config", "strategy", "reason"),
    [(CLIP, "full", "class token has no place"), (SIGLIP, "default", "no class token, and the first patch")],
    ids=["clip", "siglip"],
)
def test_patches_that_fill_no_grid(config, strategy, reason):
    with pytest.raises(UserError, match=reason):
        family_of(config).grids(config, first_visual(16), {"vision_feature_select_strategy": strategy})


def test_tower_whose_grid_is_not_known():
    config = toy_llava().config
    config.vision_config.model_type = "pixtral"
    with pytest.raises(UserError, match="'pixtral' has no known grid, expected one of: clip_vision_model"):
        family_of(config).grids(config, first_visual(16), {})
