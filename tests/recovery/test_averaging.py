"""Lightning's average of the weights beside a training: in its checkpoints, and when it goes on."""

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from toy_resume import At, course, toy_module, train, weights

from yopo_train.run_folder import RunFolder


class Interrupted(Exception):
    """Something that is nobody's fault."""


def interrupt() -> None:
    raise Interrupted


def test_an_average_goes_on(tmp_path):
    whole = train(tmp_path / "whole", EMAWeightAveraging(decay=0.5), max_steps=6)
    with pytest.raises(Interrupted):
        train(tmp_path / "parts", EMAWeightAveraging(decay=0.5), At("on_after_backward", 4, interrupt), max_steps=6)
    checkpoint = torch.load(RunFolder(tmp_path / "parts").last_checkpoint, weights_only=True)
    assert checkpoint["global_step"] == 4
    names = toy_module().trainable().keys()
    assert checkpoint["state_dict"].keys() == checkpoint["current_model_state"].keys() == names  # nothing of the base
    parts = train(tmp_path / "parts", EMAWeightAveraging(decay=0.5), max_steps=6)
    assert course(tmp_path / "parts") == course(tmp_path / "whole")
    assert all(torch.equal(weights(parts)[name], weight) for name, weight in weights(whole).items())
