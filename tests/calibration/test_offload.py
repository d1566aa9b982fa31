"""Calibration of a model whose weights lie on disk or CPU and do not fit the device: the test sets the limit."""

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import AlignDevicesHook
from accelerate.utils import OffloadedWeightsLoader
from lightning.pytorch import Trainer
from PIL import Image as PILImage
from torch.utils.data import DataLoader
from toy import toy_batch, toy_llava
from transformers import LlavaForConditionalGeneration

from yopo_train.calibration import CalibrationModule, Scores, calibrate
from yopo_train.data.collate import EvalCollator
from yopo_train.errors import UserError
from yopo_train.models import load_base

BATCHES = [
    toy_batch([[2, "image", 4], ["image", 1]], seed=1),
    toy_batch([[3, "image", 1, "image", 2]], seed=2, padding="right"),
    toy_batch([[1, "image", 5], [4]], seed=3),
]
LAYERS = 6
STATISTICS = ("rho", "channels", "neighbor_mass", "head_norms", "channel_norms")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    toy_llava(2, layers=LAYERS).save_pretrained(folder)
    return folder


@pytest.fixture
def on_disk(checkpoint, tmp_path):
    """Every weight on disk, nothing in memory."""
    return LlavaForConditionalGeneration.from_pretrained(checkpoint, device_map={"": "disk"}, offload_folder=tmp_path)


@pytest.fixture
def reads(monkeypatch) -> dict[str, int]:
    """How often each weight was read from where it is kept."""
    counts, read = {}, OffloadedWeightsLoader.__getitem__

    def counting(self, key):
        counts[key] = counts.get(key, 0) + 1
        return read(self, key)

    monkeypatch.setattr(OffloadedWeightsLoader, "__getitem__", counting)
    return counts


def in_memory(model: torch.nn.Module) -> int:
    """Bytes of the weights that are not away."""
    return sum(weight.nbytes for weight in model.parameters() if weight.device.type != "meta")


def assert_close(found: Scores, expected: Scores) -> None:
    for name in STATISTICS:
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-5)


def assert_equal_to_in_memory(scores: Scores) -> None:
    assert_close(scores, calibrate(toy_llava(2, layers=LAYERS), BATCHES))


def test_weights_beyond_the_limit_are_never_in_memory_at_once(on_disk, monkeypatch):
    sizes = [sum(weight.nbytes for weight in layer.parameters()) for layer in on_disk.model.language_model.layers]
    total = sum(weight.nbytes for weight in on_disk.parameters())
    limit = int(1.1 * max(sizes))
    assert limit < total / 4
    load, most = AlignDevicesHook.pre_forward, [0]

    def watched(self, module, *args, **kwargs):
        result = load(self, module, *args, **kwargs)
        most.append(in_memory(on_disk))
        return result

    monkeypatch.setattr(AlignDevicesHook, "pre_forward", watched)
    scores = calibrate(on_disk, BATCHES)
    assert 0 < max(most) <= limit
    assert in_memory(on_disk) == 0
    assert_equal_to_in_memory(scores)


def test_each_weight_of_a_layer_is_read_once_for_all_batches(on_disk, reads):
    calibrate(on_disk, BATCHES)
    layers = {name: count for name, count in reads.items() if "language_model.layers" in name}
    weights = on_disk.model.language_model.layers.named_parameters()
    assert len(layers) == len(list(weights)) and set(layers.values()) == {1}
    assert not any("lm_head" in name for name in reads), "nobody asked for logits"


def test_weights_on_the_cpu(checkpoint):
    model = cpu_offload(LlavaForConditionalGeneration.from_pretrained(checkpoint), torch.device("cpu"))
    assert in_memory(model) == 0
    assert_equal_to_in_memory(calibrate(model, BATCHES))


def test_only_some_layers_away(checkpoint, tmp_path):
    """As `device_map: auto` does it where most of the model fits."""
    away = ("model.language_model.layers.4", "model.language_model.layers.5", "lm_head")
    here = [f"model.language_model.layers.{layer}" for layer in range(4)]
    here += [f"model.language_model.{name}" for name in ("embed_tokens", "norm", "rotary_emb")]
    here += ["model.vision_tower", "model.multi_modal_projector"]
    places = dict.fromkeys(away, "disk") | dict.fromkeys(here, "cpu")
    model = LlavaForConditionalGeneration.from_pretrained(checkpoint, device_map=places, offload_folder=tmp_path)
    assert 0 < in_memory(model) < sum(weight.nbytes for weight in model.parameters())
    assert_equal_to_in_memory(calibrate(model, BATCHES))


def test_a_base_model_is_loaded_as_its_device_map_says(tiny_vlm, tmp_path):
    here, _ = load_base(tiny_vlm)
    away, processor = load_base(tiny_vlm, device_map={"": "disk"}, offload_folder=tmp_path)
    assert in_memory(away) == 0
    messages = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": ""}]
    row = {"id": "0", "kind": "", "images": [PILImage.new("RGB", (96, 96), "red")], "messages": messages}
    batch = EvalCollator(processor)([row])
    assert_close(calibrate(away, [batch]), calibrate(here, [batch]))


def test_lightning_leaves_the_model_where_it_is(on_disk, reads):
    module = CalibrationModule(on_disk)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    batches = DataLoader(BATCHES, batch_size=None)
    Trainer(accelerator="cpu", devices=1, **quiet).validate(module, batches, verbose=False)
    assert in_memory(on_disk) == 0
    assert max(count for name, count in reads.items() if "language_model.layers" in name) == 1
    assert_equal_to_in_memory(module.scores)


def test_an_error_leaves_the_model_as_it_was(on_disk):
    text = on_disk.model.language_model
    layers, norm = text.layers, text.norm

    def fail(module, args):
        raise KeyboardInterrupt

    handle = text.layers[2].mlp.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        calibrate(on_disk, BATCHES)
    handle.remove()
    assert text.layers is layers and text.norm is norm and in_memory(on_disk) == 0
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in text.modules())
    assert_equal_to_in_memory(calibrate(on_disk, BATCHES))


def test_not_finite_names_the_layer(on_disk):
    def overflow(module, args, output):
        return output * torch.inf

    on_disk.model.language_model.layers[3].mlp.register_forward_hook(overflow)
    with pytest.raises(UserError, match="calibration sample 0: activations are not finite in layer 3"):
        calibrate(on_disk, BATCHES)
