"""Which optimizer gets which weight, and that two of them behave as one."""

import copy

import pytest
import torch
from toy import toy_llava

from yopo_train.errors import UserError
from yopo_train.recovery import OptimizerOptions
from yopo_train.recovery.optimizer import make_optimizer

OPTIONS = OptimizerOptions(name="muon", lr=1e-2, muon_lr_ratio=2.0, weight_decay=0.1, betas=(0.9, 0.99))


def model_and_gradients():
    """A model, and the gradients of two steps."""
    model = toy_llava().requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    steps = [[torch.randn(w.shape, generator=generator) for w in model.parameters()] for _ in range(2)]
    return model, steps


def step(model, optimizer, gradients) -> dict[str, torch.Tensor]:
    for weight, gradient in zip(model.parameters(), gradients, strict=True):
        weight.grad = gradient.clone()
    optimizer.step()
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def test_each_weight_is_updated_by_its_own_optimizer():
    model, (gradients, _) = model_and_gradients()
    alone = copy.deepcopy(model)
    after = step(model, make_optimizer(dict(model.named_parameters()), OPTIONS), gradients)
    matrices = [w for n, w in alone.named_parameters() if w.dim() == 2 and "embed" not in n and "lm_head" not in n]
    muon = torch.optim.Muon(matrices, lr=2e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    chosen = {id(w) for w in matrices}
    rest = [w for w in alone.parameters() if id(w) not in chosen]
    adamw = torch.optim.AdamW(
        [
            {"params": [w for w in rest if w.dim() > 1], "weight_decay": 0.1},
            {"params": [w for w in rest if w.dim() == 1], "weight_decay": 0.0},
        ],
        lr=1e-2,
        betas=(0.9, 0.99),
    )
    step(alone, muon, gradients)
    expected = step(alone, adamw, gradients)
    assert any("lm_head" in name for name in after)
    for name, weight in after.items():
        assert torch.equal(weight, expected[name]), name


def test_schedule_and_checkpoint_reach_both():
    model, (first, second) = model_and_gradients()
    optimizer = make_optimizer(dict(model.named_parameters()), OPTIONS)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1.0 / (1 + i))
    step(model, optimizer, first)
    schedule.step()
    assert sorted({group["lr"] for group in optimizer.param_groups}) == pytest.approx([0.5e-2, 1e-2])
    resumed = copy.deepcopy(model)
    restored = make_optimizer(dict(resumed.named_parameters()), OPTIONS)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    straight, continued = step(model, optimizer, second), step(resumed, restored, second)
    for name, weight in straight.items():
        assert torch.equal(weight, continued[name]), name


def test_weights_that_come_late_are_refused():
    model, _ = model_and_gradients()
    optimizer = make_optimizer(dict(model.named_parameters()), OPTIONS)
    with pytest.raises(UserError, match="weights cannot be added"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(2, 2))]})


def test_without_muon_there_is_one_plain_optimizer():
    model, _ = model_and_gradients()
    weights = dict(model.named_parameters())
    assert type(make_optimizer(weights, OptimizerOptions())) is torch.optim.AdamW
    hidden = {name: w for name, w in weights.items() if name.endswith("q_proj.weight")}
    assert type(make_optimizer(hidden, OPTIONS)) is torch.optim.Muon
