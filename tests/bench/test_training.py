"""The LoRA step that bench times."""

import pytest
import torch
from families import FAMILIES
from families.matrix import inputs_of, plan_of

from yopo_train.bench.training import lora_step
from yopo_train.pruning import prune, unprune


@pytest.mark.parametrize("backend", ["base", "compact", "reference"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_step_of_the_language_model_alone_is_that_of_all(name, backend):
    """The same loss and gradients, with and without the vision tower in it."""
    model = FAMILIES[name].toy()
    plan, batch = plan_of(model, "all"), inputs_of(name, model, "forward")
    found = []
    for vision in (True, False):
        with lora_step(model, batch, vision) as lora:
            for each in lora.model.modules():
                each.p = 0.0 if isinstance(each, torch.nn.Dropout) else getattr(each, "p", None)
            for number, weight in enumerate(lora.weights):
                torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(number))
            lora.prepare(unprune if backend == "base" else lambda model: prune(model, plan, backend))
            loss = lora.loss()
            loss.backward()
            found.append([loss.detach(), *(weight.grad for weight in lora.weights)])
    for alone, whole in zip(*found, strict=True):
        torch.testing.assert_close(alone, whole)
