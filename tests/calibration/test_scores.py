"""The scores file: round trip and refusals."""

from dataclasses import asdict, replace

import pytest
import torch
from toy_scores import random_scores

from yopo_train import tensor_file
from yopo_train.calibration import Scores
from yopo_train.errors import UserError
from yopo_train.plan import ModelDims, PruningPlan
from yopo_train.tensor_file import write_tensor_file

DIMS = ModelDims(layers=3, hidden=8, intermediate=6, heads=4, kv_heads=2, head_dim=2)
NAMES = ("rho", "channels", "neighbor_mass", "head_norms", "channel_norms")


def test_save_and_load_give_the_same_scores(tmp_path):
    path, scores = tmp_path / "scores.safetensors", random_scores(DIMS)
    scores.save(path)
    loaded = Scores.load(path)
    assert all(torch.equal(getattr(loaded, name), getattr(scores, name)) for name in NAMES)
    for name in ("dims", "base_model", "revision", "data_fingerprint", "seed", "batch_size", "n_samples", "id"):
        assert getattr(loaded, name) == getattr(scores, name), name
    assert scores.id != random_scores(DIMS, seed=1).id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rho": torch.zeros(0, 3, 4)}, "holds no sample"),
        ({"rho": torch.zeros(2, 3, 5)}, r"scores rho is torch.float32 \(2, 3, 5\), expected torch.float32 \(2, 3, 4\)"),
        ({"channels": torch.zeros(3, 6).double()}, r"scores channels is torch.float64 \(3, 6\)"),
        ({"head_norms": torch.zeros(3)}, r"scores head_norms is torch.float32 \(3,\)"),
        ({"neighbor_mass": torch.ones(3)}, r"scores neighbor_mass is torch.float32 \(3,\), expected .* \(3, 1\)"),
        ({"neighbor_mass": torch.ones(2, 5)}, r"scores neighbor_mass is torch.float32 \(2, 5\), expected .* \(3, 5\)"),
        ({"neighbor_mass": torch.full((3, 2), torch.nan)}, "scores neighbor_mass is not finite in layer 0"),
        ({"rho": torch.ones(2, 3, 4).index_fill(1, torch.tensor(2), torch.nan)}, "scores rho is not finite in layer 2"),
        ({"channels": torch.full((3, 6), torch.inf)}, "scores channels is not finite in layer 0"),
    ],
)
def test_invalid_scores_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        replace(random_scores(DIMS), **change)


def test_bad_files_are_refused(tmp_path):
    path, scores = tmp_path / "scores.safetensors", random_scores(DIMS)
    tensors = {name: getattr(scores, name) for name in NAMES}
    header = {"dims": asdict(DIMS), "n_samples": 5}

    def refused(message: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            Scores.load(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)

    refused("no such file")
    path.write_bytes(b"")
    refused("not a readable safetensors file")
    PruningPlan.dense(DIMS).save(path)
    refused("holds plan, expected a scores file")
    write_tensor_file(path, "scores", 3, tensors, header)
    refused("scores format 3 is newer")
    write_tensor_file(path, "scores", 1, tensors, header)
    refused("scores format 1 was made by an older version of yopo_train: delete it and calibrate again")
    write_tensor_file(path, "scores", 2, tensors, {**header, "n_samples": 6})
    refused("holds 5 samples, the header says 6")
    write_tensor_file(path, "scores", 2, tensors, {**header, "dims": {**asdict(DIMS), "heads": 2}})
    refused(r"scores rho is torch.float32 \(5, 3, 4\)")
    write_tensor_file(path, "scores", 2, {"rho": scores.rho}, header)
    refused("damaged scores")
    scores.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused("not a readable safetensors file")


def test_cross_modal_is_the_share_of_attention_on_visual_keys():
    visual = torch.rand(5, 3, 4, generator=torch.Generator().manual_seed(0))
    scores = replace(random_scores(DIMS), rho=visual / (1 - visual))
    torch.testing.assert_close(scores.cross_modal, visual.mean(dim=(0, 2)))


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path, old = tmp_path / "scores.safetensors", random_scores(DIMS)
    old.save(path)

    def full(tensors, name, metadata):
        name.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_file, "save_file", full)
    with pytest.raises(UserError, match=r"cannot write the scores: .*No space left"):
        random_scores(DIMS, seed=1).save(path)
    assert Scores.load(path).id == old.id and list(tmp_path.iterdir()) == [path]
