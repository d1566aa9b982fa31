"""Memory: one shard and its output at a time, never the model."""

import gc
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from convert.internvl_original import write_original
from yopo_train.convert import convert_internvl2

SHARDS = 8


@pytest.fixture
def frozen():
    """Whatever lives before the test is left out of the garbage collector's lists, which is much faster."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def held_bytes():
    """Bytes of the memory of all tensors made since `frozen` that live now, mapped files included."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter) and thing.device.type == "cpu":
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@pytest.mark.parametrize("kind", ["internlm2", "phi3"])
def test_one_shard_and_its_output_are_held(kind, tmp_path, monkeypatch, frozen):
    tensors = write_original(tmp_path / "original", kind, shards=SHARDS)
    whole = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    del tensors
    sizes = [path.stat().st_size for path in (tmp_path / "original").glob("*.safetensors")]
    held = []

    def saved(tensors, path, metadata):
        held.append(held_bytes())
        save_file(tensors, path, metadata)

    monkeypatch.setattr("yopo_train.convert.output.save_file", saved)
    convert_internvl2(tmp_path / "original", tmp_path / "new")
    assert len(held) == SHARDS and min(held) > 0 and max(held) <= 2 * max(sizes) < whole
    assert held_bytes() == 0


def test_index_names_every_tensor_once(tmp_path):
    write_original(tmp_path / "original", "internlm2", shards=SHARDS)
    convert_internvl2(tmp_path / "original", tmp_path / "new")
    index = json.loads((tmp_path / "new" / "model.safetensors.index.json").read_text())
    found = {}
    for path in sorted((tmp_path / "new").glob("*.safetensors")):
        found |= dict.fromkeys(load_file(path), path.name)
    assert found == index["weight_map"] and len(set(found.values())) == SHARDS
    assert (
        sum(path.stat().st_size for path in (tmp_path / "new").glob("*.safetensors")) > index["metadata"]["total_size"]
    )


def test_one_shard_needs_no_index(tmp_path):
    write_original(tmp_path / "original", "llama", shards=1)
    convert_internvl2(tmp_path / "original", tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").glob("model*")] == ["model.safetensors"]
