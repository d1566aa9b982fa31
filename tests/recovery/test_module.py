"""The loss, the schedule, and what a checkpoint holds and refuses."""

import copy
import io
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from toy import VISUAL, random_plan, toy_batch, toy_dims, toy_llava

from yopo_train.calibration import PlanConfig
from yopo_train.errors import UserError
from yopo_train.evaluation.generation import generate_answers
from yopo_train.pruning import prune
from yopo_train.recovery import LoraOptions, OptimizerOptions, YopoModule, attach_lora
from yopo_train.recovery.loss import IGNORE, answer_loss
from yopo_train.recovery.optimizer import lr_factor


def labelled_batch() -> dict:
    """Two right-padded samples with labels on the last tokens of each."""
    batch = toy_batch([[3, "image", 6], [2, "image", 4]], padding="right")
    labels = torch.full_like(batch["input_ids"], IGNORE)
    for row, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
        labels[row, length - 3 : length] = batch["input_ids"][row, length - 3 : length]
    return batch | {"labels": labels, "meta": [{}, {}]}


def module_with(model, **options) -> YopoModule:
    module = YopoModule("org/base", lora=LoraOptions(r=2), **options)
    module.model = model
    return module


@pytest.mark.parametrize("pruned", [False, True])
def test_the_loss_is_the_models_own(pruned):
    model = toy_llava()
    if pruned:
        prune(model, random_plan(toy_dims(model), depth=3, radius=1))
    model, batch = attach_lora(model, LoraOptions(r=2)), labelled_batch()
    ours = answer_loss(model, batch)
    ours.backward()
    gradients = {name: w.grad.clone() for name, w in model.named_parameters() if w.grad is not None}
    model.zero_grad()
    theirs = model(**{name: value for name, value in batch.items() if name != "meta"}).loss
    theirs.backward()
    torch.testing.assert_close(ours, theirs)
    assert gradients.keys() == {name for name, w in model.named_parameters() if w.requires_grad}
    for name, weight in model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(gradients[name], weight.grad, atol=1e-6, rtol=1e-4)


def test_a_label_that_only_a_visual_token_could_predict():
    model, batch = toy_llava(), labelled_batch()
    behind = 3 + VISUAL  # of the first sample
    batch["labels"][0, behind] = batch["input_ids"][0, behind]
    assert answer_loss(model, batch).isfinite()
    prune(model, random_plan(toy_dims(model), depth=3, radius=1))
    with pytest.raises(UserError, match=f"token {behind} of sample 0 .* right behind a visual token"):
        answer_loss(model, batch)


def test_warm_up_and_cosine():
    options = OptimizerOptions(warmup_ratio=0.1, min_lr_ratio=0.2)
    factors = [lr_factor(step, 100, options) for step in range(101)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == factors[10] == 1.0
    assert factors[55] == pytest.approx(0.6)
    assert factors[100] == pytest.approx(0.2)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert lr_factor(0, 1, OptimizerOptions(warmup_ratio=0.0)) == 1.0


def test_a_schedule_may_be_longer_than_the_fit(monkeypatch):
    options = OptimizerOptions(lr=1.0, warmup_ratio=0.0, schedule_steps=100)
    module = module_with(toy_llava(), tuning="full", optimizer=options)
    module.start_tuning()
    monkeypatch.setattr(YopoModule, "trainer", property(lambda self: type("T", (), {"estimated_stepping_batches": 50})))
    schedule = module.configure_optimizers()["lr_scheduler"]["scheduler"]
    assert schedule.lr_lambdas[0](50) == pytest.approx(0.5)


def test_full_tuning_decays_matrices_only(monkeypatch):
    module = module_with(toy_llava(), tuning="full", optimizer=OptimizerOptions(weight_decay=0.1))
    module.start_tuning()
    monkeypatch.setattr(YopoModule, "trainer", property(lambda self: type("T", (), {"estimated_stepping_batches": 9})))
    matrices, vectors = module.configure_optimizers()["optimizer"].param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert all(weight.dim() == 1 for weight in vectors["params"])
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(module.parameters()))


def checkpoint_of(module: YopoModule) -> dict:
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    file = io.BytesIO()
    torch.save(checkpoint, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def tuned_module(plan_seed: int = 0, **options) -> YopoModule:
    model = toy_llava()
    module = module_with(model, **options)
    module.prune_with(random_plan(toy_dims(model), depth=3, radius=1, seed=plan_seed))
    module.start_tuning()
    return module


def test_a_checkpoint_holds_the_adapter_and_comes_back():
    module = tuned_module()
    for weight in module.trainable().values():
        torch.nn.init.normal_(weight)
    checkpoint = checkpoint_of(module)
    assert checkpoint["state_dict"].keys() == module.trainable().keys()
    other = tuned_module()
    other.on_load_checkpoint(copy.deepcopy(checkpoint))
    other.load_state_dict(checkpoint["state_dict"], strict=False)
    for name, weight in module.trainable().items():
        assert torch.equal(weight, other.trainable()[name]), name


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (lambda checkpoint: checkpoint["yopo"].update(plan="0" * 12), "plan"),
        (lambda checkpoint: checkpoint["yopo"].update(base="org/other"), "org/other"),
        (lambda checkpoint: checkpoint["yopo"].update(backend="reference"), "backend 'reference', expected 'compact'"),
        (lambda checkpoint: checkpoint.pop("yopo"), "base None"),
        (lambda checkpoint: checkpoint["state_dict"].popitem(), "lora_"),
        (lambda checkpoint: checkpoint["state_dict"].update(extra=torch.zeros(2)), "extra"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(change, culprit):
    module = tuned_module()
    checkpoint = checkpoint_of(module)
    change(checkpoint)
    with pytest.raises(UserError, match=culprit):
        module.on_load_checkpoint(checkpoint)


def test_a_plan_and_a_pruning_section_exclude_each_other():
    with pytest.raises(UserError, match=r"model\.plan"):
        YopoModule("org/base", pruning=PlanConfig(preset="paper-25"), plan="plan.safetensors")


def test_the_reference_backend_answers_without_a_cache_and_leaves_the_settings_alone():
    model, batch = toy_llava(), toy_batch([[3, "image", 6]])
    module = module_with(model, backend="reference")
    assert module.has_cache, "the base model has one"
    settings = model.generation_config.to_dict()
    module.prune_with(random_plan(toy_dims(model), depth=3, radius=1))
    assert model.generation_config.to_dict() == settings, "save_pretrained would write that"
    assert not module.has_cache
    tokenizer = SimpleNamespace(eos_token_id=2, pad_token_id=0, batch_decode=lambda tokens, **_: ["x"] * len(tokens))
    processor = SimpleNamespace(tokenizer=tokenizer)
    assert generate_answers(model, processor, batch, 2, use_cache=module.has_cache) == ["x"]
    with pytest.raises(UserError, match="no KV cache"):
        generate_answers(model, processor, batch, 2)


def test_a_given_plan_that_the_backend_does_not_compute(tmp_path):
    model, file = toy_llava(), str(tmp_path / "plan.safetensors")
    plan = replace(random_plan(toy_dims(model), depth=3, radius=1), semantics="official")
    plan.save(file)
    with pytest.raises(UserError, match=r"semantics are official, which only .*backend reference computes"):
        module_with(model, plan=file).given_plan()
    assert module_with(model, plan=file, backend="reference").given_plan().id == plan.id


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"r": 0}, r"lora\.r is 0"),
        ({"lora_dropout": 1.0}, "lora_dropout"),
        ({"target_modules": []}, "target_modules"),
        ({"rank_pattern": {"(": 8}}, r"lora\.rank_pattern is '\('"),
        ({"alpha_pattern": {"q_proj": 8, "*": 8}}, r"lora\.alpha_pattern is '\*'"),
        ({"exclude_modules": "["}, r"lora\.exclude_modules is '\['"),
    ],
)
def test_lora_options_are_checked(options, culprit):
    with pytest.raises(UserError, match=culprit):
        LoraOptions(**options)


@pytest.mark.parametrize("options", [{"lr": 0.0}, {"weight_decay": -1.0}, {"betas": (0.9, 1.0)}, {"warmup_ratio": 2.0}])
def test_optimizer_options_are_checked(options):
    with pytest.raises(UserError, match=f"optimizer.{next(iter(options))}"):
        OptimizerOptions(**options)
