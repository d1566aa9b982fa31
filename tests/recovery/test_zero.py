"""DeepSpeed itself, on the CPU: the trainings and the checkpoints of DDP. Skipped where it is not installed."""

import pytest
import torch
import toy_resume
from toy import toy_batch
from toy_resume import course, toy_module, train, weights
from zero_on_cpu import DeepSpeedOnCpu

from yopo_train.cli import main
from yopo_train.errors import UserError
from yopo_train.pipeline import TrainerFactory
from yopo_train.recovery.freezing import train_all_but
from yopo_train.run_folder import RunFolder

deepspeed = pytest.importorskip("deepspeed")

TRAININGS = {
    "accumulated": ({}, {"accumulate_grad_batches": 2, "gradient_clip_val": 3.0}),
    "taught": ({"loss": "ce+kd"}, {}),
    "projector": ({"projector": True}, {}),
    "full": ({"tuning": "full"}, {}),
}


@pytest.fixture(autouse=True)
def on_cpu(alone_again, monkeypatch):
    """DeepSpeed, which keeps a process group of its own in two places, begins anew in each test."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    yield
    deepspeed.comm.comm.cdb = deepspeed.utils.groups._WORLD_GROUP = None


def numbers(rows: list[tuple[str, ...]]) -> list[list[float]]:
    return [[float(value) if value else -1.0 for value in row] for row in rows]


@pytest.mark.parametrize("name", TRAININGS)
def test_it_trains_as_one_process_does(name, tmp_path):
    """Ten rows in batches of two: an epoch ends in the middle of an accumulation."""
    options, settings = TRAININGS[name]
    alone = train(tmp_path / "alone", module=toy_module(**options), **settings)
    zero = train(tmp_path / "zero", module=toy_module(**options), strategy=DeepSpeedOnCpu(), **settings)
    expected = numbers(course(tmp_path / "alone"))
    assert len(expected) > 8
    for row, other in zip(numbers(course(tmp_path / "zero")), expected, strict=True):
        assert row == pytest.approx(other, rel=1e-5)
    for there, here in zip(weights(alone).values(), weights(zero).values(), strict=True):
        torch.testing.assert_close(here, there, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_it_goes_on_exactly(tuning, precision, tmp_path):
    settings = {"accumulate_grad_batches": 2, "precision": precision}

    def fit(run, steps, **more):
        module = toy_module(tuning=tuning, schedule_steps=8)
        return train(tmp_path / run, module=module, strategy=DeepSpeedOnCpu(), max_steps=steps, **settings, **more)

    whole = fit("whole", 8)
    fit("parts", 5)  # between two validations, in the middle of an epoch
    parts = fit("parts", 8)
    assert course(tmp_path / "parts") == course(tmp_path / "whole")
    assert all(
        torch.equal(there, here) for there, here in zip(weights(whole).values(), weights(parts).values(), strict=True)
    )
    assert all(weight.dtype == torch.float32 for weight in weights(parts).values())


@pytest.mark.parametrize("options", [{"projector": True}, {"tuning": "full"}])
def test_processes_send_the_same_whatever_their_batches_have(options, monkeypatch, tmp_path):
    """Sums are of places in what each of them sends: every weight has to have the same one, with images or without."""
    sent: list[list[str]] = [[]]
    Zero = deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer
    put, end = Zero.reduce_independent_p_g_buckets_and_remove_grads, Zero.independent_gradient_partition_epilogue

    def puts(self, weight, group):
        sent[-1].append(self.param_names[weight])
        put(self, weight, group)

    def ends(self):
        sent.append([])
        end(self)

    def rows(numbers):
        batch = toy_batch([[2, "image", 5] if number % 2 else [2, 5] for number in numbers], seed=numbers[0])
        labels = batch["input_ids"].clone()
        labels[:, :-3] = -100
        return batch | {"labels": labels}

    monkeypatch.setattr(Zero, "reduce_independent_p_g_buckets_and_remove_grads", puts)
    monkeypatch.setattr(Zero, "independent_gradient_partition_epilogue", ends)
    monkeypatch.setattr(toy_resume, "toy_rows", rows)
    settings = {"strategy": DeepSpeedOnCpu(), "batch_size": 1, "max_steps": 4, "limit_val_batches": 0}
    module = train(tmp_path / "run", module=toy_module(**options), **settings)
    assert len(sent) == 5 and sent.pop() == []
    assert all(names == sent[0] for names in sent) and sorted(sent[0]) == sorted(module.trainable())


def test_a_full_finetune_begins_and_ends_with_the_base_s_own_weights(tmp_path):
    """Not with what bfloat16 leaves of them, frozen or not."""
    module = toy_module(tuning="full", lr=1e-12)
    train_all_but(module.model, ["vision"])
    before = {name: weight.detach().clone() for name, weight in module.model.named_parameters()}
    settings = {"strategy": DeepSpeedOnCpu(), "max_steps": 2, "limit_val_batches": 0}
    train(tmp_path / "run", module=module, precision="bf16-mixed", **settings)
    for name, weight in module.model.named_parameters():
        torch.testing.assert_close(weight.detach(), before[name], rtol=0, atol=1e-9, msg=name)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_its_checkpoints_are_those_of_ddp(tuning, tmp_path):
    """Of trained weights only, in the base's order; each of the two goes on from the other's."""
    strategies = {"ddp": lambda: "auto", "zero": DeepSpeedOnCpu}

    def fit(run, strategy, steps, **more):
        module = toy_module(tuning=tuning, schedule_steps=6)
        return train(tmp_path / run, module=module, strategy=strategies[strategy](), max_steps=steps, **more)

    saved, went_on = {}, {}
    for first, second in (("ddp", "zero"), ("zero", "ddp")):
        fit(first, first, 3)
        checkpoint = RunFolder(tmp_path / first).last_checkpoint
        saved[first] = torch.load(checkpoint, weights_only=True)
        fit(f"{first} {second}", second, 6, ckpt_path=str(checkpoint))
        went_on[first] = numbers(course(tmp_path / f"{first} {second}"))
    assert same_checkpoints(saved["ddp"], saved["zero"])
    assert len(went_on["ddp"]) > 3
    for row, other in zip(*went_on.values(), strict=True):
        assert row == pytest.approx(other, rel=1e-5)


def same_checkpoints(ddp: dict, zero: dict) -> bool:
    """But for the moments of weights without any gradient, which DDP does not have."""
    assert ddp.keys() == zero.keys() and ddp["state_dict"].keys() == zero["state_dict"].keys()
    (there,), (here,) = ddp["optimizer_states"], zero["optimizer_states"]
    assert there["param_groups"] == here["param_groups"]
    for name, weight in ddp["state_dict"].items():
        torch.testing.assert_close(zero["state_dict"][name], weight)
    for number, state in here["state"].items():
        for name, value in there["state"].get(number, {}).items():
            torch.testing.assert_close(state[name], value)
        assert number in there["state"] or not state["exp_avg"].any()
    return True


@pytest.mark.parametrize(
    ("settings", "optimizer", "culprit"),
    [
        ({"precision": "16-mixed"}, "adamw", "trainer.precision is 16-mixed, expected 32-true or bf16-mixed"),
        ({"gradient_clip_algorithm": "value"}, "adamw", "trainer.gradient_clip_algorithm is value, expected norm"),
        ({}, "muon", "model.optimizer.name is muon, expected adamw"),
    ],
)
def test_what_it_cannot_have(settings, optimizer, culprit, tmp_path):
    settings = {"accelerator": "cpu", "strategy": DeepSpeedOnCpu()} | settings
    with pytest.raises(UserError, match=culprit):
        TrainerFactory(RunFolder(tmp_path / "run"), settings).check_training([], optimizer)


@pytest.mark.parametrize("name", ["reduce_bucket_size", "allgather_bucket_size"])
@pytest.mark.parametrize("size", [0, 2001])
def test_what_it_cannot_send_at_once(name, size):
    with pytest.raises(UserError, match=f"trainer.strategy.init_args.{name} is {size}, expected an even number >= 2"):
        DeepSpeedOnCpu(**{name: size})


def test_a_whole_fit(config, tmp_path):
    """Its scores are of the base as it is saved, with the adapter as it is saved."""
    options = ["--config", str(config), "--model.loss=ce+kd", "--data.test_limit=1", "--trainer.max_steps=4"]
    assert main(["fit", *options, f"--run_dir={tmp_path / 'alone'}"]) == 0
    zero = ["--trainer.strategy.class_path=zero_on_cpu.DeepSpeedOnCpu", "--trainer.devices=1"]
    assert main(["fit", *options, *zero, f"--run_dir={tmp_path / 'zero'}"]) == 0
    answers = [(tmp_path / run / "predictions" / "recovered.jsonl").read_text() for run in ("alone", "zero")]
    assert answers[0] == answers[1]
