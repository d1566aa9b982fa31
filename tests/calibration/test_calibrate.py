"""Calibration as a whole: the Python call, the Lightning module, several ranks, bad input."""

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader
from toy import IMAGE_TOKEN, random_plan, text_positions, toy_batch, toy_dims, toy_llava

from yopo_train.calibration import CalibrationModule, ChannelScore, HeadRatio, Scores, calibrate
from yopo_train.errors import UserError
from yopo_train.pruning import prune

BATCHES = [
    toy_batch([[2, "image", 4], ["image", 1]], seed=1),
    toy_batch([[3, "image", 1, "image", 2]], seed=2),
    toy_batch([[1, "image", 5], [4]], seed=3),
]


def loader(batches: list[dict]) -> DataLoader:
    return DataLoader(batches, batch_size=None)


def trainer(devices: int = 1, **kwargs) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", devices=devices, **quiet, **kwargs)


def sorted_rho(scores: Scores) -> torch.Tensor:
    """Samples in an order that does not depend on the ranks."""
    return scores.rho[scores.rho[:, 0, 0].argsort()]


def assert_same_scores(found: Scores, expected: Scores) -> None:
    """Within float32 summation error, samples in any order."""
    torch.testing.assert_close(sorted_rho(found), sorted_rho(expected), rtol=1e-4, atol=1e-6)
    for name in ("channels", "neighbor_mass", "cross_modal", "head_norms", "channel_norms"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-5)


def hooks(model: torch.nn.Module) -> int:
    """Hooks on the language model (transformers leaves its own on the vision tower)."""
    parts = model.model.language_model.modules()
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in parts)


def test_lightning_and_the_plain_call_agree():
    module = CalibrationModule(toy_llava(2), data_fingerprint="abc", seed=7, batch_size=2)
    trainer().validate(module, loader(BATCHES), verbose=False)
    plain = calibrate(module.model, BATCHES, data_fingerprint="abc")
    assert module.scores.id == plain.id
    assert (plain.n_samples, plain.data_fingerprint, plain.seed) == (4, "abc", None)
    assert (module.scores.data_fingerprint, module.scores.seed, module.scores.batch_size) == ("abc", 7, 2)
    trainer().validate(module, loader(BATCHES[:1]), verbose=False)
    assert module.scores.n_samples == 2  # a second epoch starts from nothing
    torch.testing.assert_close(module.scores.rho, plain.rho[:2])


def test_the_model_is_left_as_it_was():
    model = toy_llava(2).train()
    model.model.vision_tower.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = {**BATCHES[0], "labels": BATCHES[0]["input_ids"], "meta": [{"id": "a"}, {"id": "b"}]}
    scores = calibrate(model, [batch])
    with pytest.raises(UserError):
        calibrate(model, [toy_batch([[1, "image"]])])
    assert model.training and model.model.language_model.training and not model.model.vision_tower.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert hooks(model) == 0
    scores.rho.add_(1)  # an inference tensor would refuse


class TwoRanks(CalibrationModule):
    """Each rank reads its own batches; rank 0 leaves the scores in a file."""

    def __init__(self, shares: tuple[list[dict], list[dict]], path) -> None:
        super().__init__(toy_llava(2))
        self.shares, self.path = shares, path

    def on_validation_epoch_start(self) -> None:
        torch.set_num_threads(1)
        super().on_validation_epoch_start()

    def val_dataloader(self) -> DataLoader:
        return loader(self.shares[self.trainer.global_rank])

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if self.trainer.is_global_zero:
            self.scores.save(self.path)


@pytest.mark.parametrize(
    "shares",
    [(BATCHES[:2], BATCHES[2:]), (BATCHES, [toy_batch([[4]])])],
    ids=["uneven", "one rank without images"],
)
def test_two_ranks_equal_one(tmp_path, shares):
    path = tmp_path / "scores.safetensors"
    module = TwoRanks(shares, path)
    trainer(2, strategy="ddp_fork", use_distributed_sampler=False).validate(module, verbose=False)
    single, double = calibrate(toy_llava(2), BATCHES), Scores.load(path)
    assert_same_scores(double, single)


def test_metrics_merge():
    generator = torch.Generator().manual_seed(0)
    masses = torch.rand(2, 5, 3, 4, generator=generator) + 0.1
    whole, left, right = (HeadRatio(3, 4) for _ in range(3))
    whole.update(*masses)
    left.update(*masses[:, :2])
    right.update(*masses[:, 2:])
    left.merge_state(right)
    torch.testing.assert_close(whole.compute(), masses[0] / masses[1])
    assert torch.equal(left.compute().sort(dim=0).values, whole.compute().sort(dim=0).values)
    assert HeadRatio(3, 4).compute().shape == (0, 3, 4)

    activations, norms = torch.rand(2, 3, 6, generator=generator), torch.rand(3, 6, generator=generator)
    first, second = ChannelScore(3, 6), ChannelScore(3, 6)
    first.update(activations[0], norms)
    second.update(activations[1], norms)
    first.merge_state(second)
    torch.testing.assert_close(first.compute(), activations.sum(dim=0) * norms)


def test_bad_input_is_named():
    module = CalibrationModule(toy_llava(2))
    with pytest.raises(UserError, match="calibration set is empty"):
        calibrate(module.model, [])
    with pytest.raises(UserError, match="none of the 3 calibration samples holds a visual token"):
        calibrate(module.model, [toy_batch([[2], [3]]), toy_batch([[5]])])
    trainer().validate(module, loader([]), verbose=False)
    with pytest.raises(UserError, match="calibration set is empty"):
        _ = module.scores


def test_a_pruned_model_is_refused():
    model = toy_llava(2)
    prune(model, random_plan(toy_dims(model), depth=2, radius=1))
    with pytest.raises(UserError, match="needs the unpruned model"):
        calibrate(model, BATCHES)


@pytest.mark.parametrize("kind", ["visual", "text", "padding"])
def test_an_overflow_names_the_first_layer_and_the_sample(kind):
    """One token of layer 1 overflows, in the second sample of the batch; what padding holds is nobody's business."""
    model, batch = toy_llava(2), toy_batch([["image", 6], [2, "image", 1]])
    token = {"visual": batch["input_ids"] == IMAGE_TOKEN, "text": text_positions(batch)}.get(kind)
    token = ~batch["attention_mask"].bool() if token is None else token
    place = token[1].nonzero()[-1].item()

    def overflow(module, args, output):
        output = output.clone()
        output[1, place, 5] = torch.inf
        return output

    layer = 3 if kind == "padding" else 1  # an earlier layer's padding spoils all tokens of the next one
    model.model.language_model.layers[layer].mlp.register_forward_hook(overflow)
    batch["meta"] = [{"id": "a-7"}, {"id": "b-9"}]
    if kind == "padding":
        assert calibrate(model, [batch]).n_samples == 2
        return
    with pytest.raises(UserError, match=r"^calibration sample b-9: activations are not finite in layer 1$"):
        calibrate(model, [batch])


def test_infinite_weights_and_bad_images_are_told_apart():
    model, batch = toy_llava(2), toy_batch([["image", 3]])
    nan = {**batch, "pixel_values": batch["pixel_values"].index_fill(2, torch.tensor(3), torch.nan)}
    with pytest.raises(UserError, match=r"sample 0: activations are not finite before layer 0 \(vision tower"):
        calibrate(model, [nan])
    with torch.no_grad():
        model.model.language_model.layers[2].mlp.up_proj.weight.fill_(1e38)
    with pytest.raises(UserError, match="sample 0: activations are not finite in layer 2"):
        calibrate(model, [batch])
    assert hooks(model) == 0
