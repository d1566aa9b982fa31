"""FSDP2's checkpoints, on one gloo rank, under a plan."""

import pytest
import torch
from toy_resume import course, toy_module, train

from yopo_train.cli import main
from yopo_train.recovery.sharding import FSDP2, whole_weights
from yopo_train.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("alone_again")


@pytest.mark.parametrize("options", [{}, {"projector": True}, {"optimizer": "muon"}, {"tuning": "full"}])
def test_it_goes_on_exactly(options, tmp_path):
    def fit(run, steps):
        module = toy_module(schedule_steps=6, **options)
        return train(tmp_path / run, module=module, strategy=FSDP2(), max_steps=steps, limit_val_batches=0)

    whole = whole_weights(fit("whole", 6).model, trained_only=True)
    fit("parts", 2)
    parts = whole_weights(fit("parts", 6).model, trained_only=True)
    assert course(tmp_path / "parts") == course(tmp_path / "whole")
    assert whole and all(torch.equal(parts[name], weight) for name, weight in whole.items())


def test_its_checkpoints_are_those_of_ddp(tmp_path):
    """Of trained weights only, in the base's order; and it goes on from DDP's."""
    for run, strategy in (("ddp", "auto"), ("sharded", FSDP2())):
        module = toy_module(schedule_steps=6)
        train(tmp_path / run, module=module, strategy=strategy, max_steps=3, limit_val_batches=0)
    ddp, sharded = (
        torch.load(RunFolder(tmp_path / run).last_checkpoint, weights_only=True) for run in ("ddp", "sharded")
    )
    assert ddp["state_dict"].keys() == sharded["state_dict"].keys()
    for name, weight in ddp["state_dict"].items():
        torch.testing.assert_close(sharded["state_dict"][name], weight)
    (there,), (here,) = ddp["optimizer_states"], sharded["optimizer_states"]
    assert there["param_groups"] == here["param_groups"]
    for number, state in there["state"].items():
        for name, value in state.items():
            torch.testing.assert_close(here["state"][number][name], value)


def test_a_strategy_that_is_not_there(config, capsys):
    assert (
        main(["fit", "--config", str(config), "--trainer.strategy.class_path=yopo_train.recovery.sharding.FSDP3"]) == 2
    )
    reason = "module 'yopo_train.recovery.sharding' has no attribute 'FSDP3'"
    assert capsys.readouterr().err == f"error: trainer.strategy is yopo_train.recovery.sharding.FSDP3: {reason}\n"
