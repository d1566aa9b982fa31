"""A full finetune of some parts of the model."""

from typing import get_args

import pytest
from families import FAMILIES
from toy import toy_batch, toy_llava

from yopo_train.errors import UserError
from yopo_train.models import family_of
from yopo_train.recovery import LoraOptions, YopoModule, attach_lora
from yopo_train.recovery.freezing import Part, may_be_unused, parts_of


@pytest.mark.parametrize("name", FAMILIES)
def test_every_weight_is_in_one_part(name):
    model = FAMILIES[name].toy()
    parts = parts_of(model)
    assert sum(map(len, parts.values())) == len(list(model.parameters())) and all(parts.values())
    names = {weight: name for name, weight in model.named_parameters()}
    assert all("language_model" in names[weight] for weight in parts["language"])
    assert {names[w].split(".")[-2] for w in parts["embeddings"]} <= {"embed_tokens", "lm_head"}
    assert all("merger" in names[w] or "projector" in names[w] or "newline" in names[w] for w in parts["projector"])
    assert all("visual" in names[weight] or "vision" in names[weight] for weight in parts["vision"])
    targets = attach_lora(model, LoraOptions(r=2, projector=True))
    adapted = [n for n, w in targets.named_parameters() if w.requires_grad and "language_model" not in n]
    assert adapted and all("merger" in n or "projector" in n for n in adapted)
    assert family_of(model).vision_tower(family_of(model).core(targets.get_base_model())) is not None


def module_with(model, **options) -> YopoModule:
    module = YopoModule("org/base", tuning="full", **options)
    module.model = model
    module.start_tuning()
    return module


@pytest.mark.parametrize("frozen", [None, ["vision"], ["vision", "projector"], ["language", "embeddings", "vision"]])
def test_frozen_parts_are_not_trained(frozen):
    module = module_with(toy_llava(), freeze=frozen)
    for part, weights in parts_of(module.model).items():
        assert {weight.requires_grad for weight in weights} == {part not in (frozen or [])}
    assert may_be_unused(module.model) is not {"vision", "projector"}.issubset(frozen or [])


def test_nothing_left_to_train():
    with pytest.raises(UserError, match=r"model\.freeze is .*expected to leave a part"):
        module_with(toy_llava(), freeze=list(get_args(Part)))


def test_an_adapter_on_the_language_model_is_used_by_every_batch():
    assert not may_be_unused(attach_lora(toy_llava(), LoraOptions(r=2)))
    assert may_be_unused(attach_lora(toy_llava(), LoraOptions(r=2, projector=True)))


def test_a_batch_without_images_where_only_their_projector_is_trained():
    module = module_with(toy_llava(), freeze=["language", "embeddings", "vision"])
    batch = toy_batch([[6], [8]])
    module.training_step(batch | {"labels": batch["input_ids"]}, 0).backward()
    assert all(not weight.grad.any() for weight in module.trainable().values())
