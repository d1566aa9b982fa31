"""What can be wrong with a checkpoint or a destination: one line each, and nothing half-written left behind."""

import json
import os
from collections import namedtuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from convert.internvl_original import edit_config, write_original
from yopo_train.cli import main
from yopo_train.convert import convert_internvl2
from yopo_train.errors import UserError

SECOND = "model-00002-of-00004.safetensors"


def set_field(*path, value):
    """A change of ``config.json``; None takes the field out."""

    def change(folder):
        def edit(content):
            for name in path[:-1]:
                content = content[name]
            content[path[-1]] = value
            if value is None:
                del content[path[-1]]

        edit_config(folder, edit)

    return change


def edit_shard(edit):
    def change(folder):
        tensors = load_file(folder / SECOND)
        edit(tensors)
        save_file(tensors, folder / SECOND, {"format": "pt"})

    return change


def cut_off(folder):
    data = (folder / SECOND).read_bytes()
    (folder / SECOND).write_bytes(data[: len(data) // 2])


def one_row_less(folder):
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        rows = {name: tensor[:-1].clone() for name, tensor in tensors.items() if name.endswith("wqkv.weight")}
        save_file({**tensors, **rows}, path, {"format": "pt"})


def damage_merge(folder):
    (folder / "tokenizer.model").write_bytes(b"\x00nonsense")


def edit_tokenizer(edit):
    def change(folder):
        path = folder / "tokenizer_config.json"
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))

    return change


def set_tokenizer(**fields):
    return edit_tokenizer(lambda content: content.update(fields))


@edit_tokenizer
def no_image_tokens(content):
    content["added_tokens_decoder"] = dict(list(content["added_tokens_decoder"].items())[:5])


@edit_tokenizer
def gap_in_ids(content):
    content["added_tokens_decoder"]["9999"] = content["added_tokens_decoder"].pop("0") | {"content": "<far>"}


CASES = {
    "missing shard": (lambda folder: (folder / SECOND).unlink(), f"1 of 4 shards are missing, the first is {SECOND}"),
    "truncated shard": (cut_off, f"{SECOND}: the shard is damaged or incomplete"),
    "no weights": (lambda folder: [path.unlink() for path in folder.glob("model*")], "no weights"),
    "damaged index": (lambda folder: (folder / "model.safetensors.index.json").write_text("{"), "not readable as JSON"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json: no such file"),
    "missing tensor": (edit_shard(lambda t: t.pop(next(iter(t)))), "1 tensors are missing"),
    "unknown tensor": (edit_shard(lambda t: t.update(extra=torch.ones(1))), "unknown tensor extra"),
    "shape": (one_row_less, "which does not fit config.json"),
    "layers": (set_field("llm_config", "num_hidden_layers", value=2), "which the model of config.json does not have"),
    "another model": (set_field("architectures", value=["LlavaForCausalLM"]), "InternVLChatModel"),
    "another language model": (set_field("llm_config", "architectures", value=["Baichuan"]), "InternLM2ForCausalLM"),
    "architectures": (set_field("architectures", value=5), "architectures is 5"),
    "data type": (set_field("torch_dtype", value="float33"), "torch_dtype is 'float33'"),
    "vision layer": (set_field("select_layer", value=3), "select_layer is 3, expected -3 to 2"),
    "tiles": (set_field("max_dynamic_patch", value="x"), "max_dynamic_patch is 'x', expected a positive integer"),
    "fewer tiles": (set_field("min_dynamic_patch", value=9), "min_dynamic_patch is 9, more than max_dynamic_patch (4)"),
    "no heads": (set_field("llm_config", "num_key_value_heads", value=0), "num_key_value_heads is 0"),
    "activation": (set_field("llm_config", "hidden_act", value="foo"), "no valid InternVLForConditionalGeneration"),
    "rope factor": (set_field("llm_config", "rope_scaling", "factor", value="x"), "rope_scaling.factor is 'x'"),
    "rope base": (set_field("llm_config", "rope_theta", value="x"), "rope_theta is 'x', expected a number"),
    "no patches": (set_field("vision_config", "patch_size", value=0), "patch_size is 0"),
    "vision heads": (set_field("vision_config", "num_attention_heads", value=5), "divisible by num_heads"),
    "missing field": (set_field("llm_config", "vocab_size", value=None), "llm_config.vocab_size is missing"),
    "no section": (set_field("vision_config", value=None), "vision_config is missing"),
    "field's type": (set_field("llm_config", "hidden_size", value="big"), "llm_config"),
    "pixel shuffle": (set_field("ps_version", value="v1"), "ps_version is 'v1', expected 'v2'"),
    "template": (set_field("template", value="other"), "template is 'other'"),
    "image size": (set_field("force_image_size", value=56), "force_image_size is 56"),
    "thumbnail": (set_field("use_thumbnail", value=False), "use_thumbnail"),
    "rope": (set_field("llm_config", "rope_scaling", "type", value="yarn"), "rope_scaling.type is 'yarn'"),
    "norm": (set_field("vision_config", "norm_type", value="batch"), "norm_type is 'batch'"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.model").unlink(), "no tokenizer, expected tokenizer.json"),
    "damaged tokenizer": (damage_merge, "tokenizer.model"),
    "image tokens": (no_image_tokens, "no token <img>"),
    "special token": (set_tokenizer(eos_token="<what>"), "no token '<what>', which its configuration names"),
    "special token's type": (set_tokenizer(bos_token={"id": 5}), "bos_token is {'id': 5}, expected a token's text"),
    "integers": (edit_shard(lambda t: t.update({k: v.long() for k, v in t.items()})), "is of type torch.int64"),
    "vocabulary": (set_field("llm_config", "vocab_size", value=330), "the model has 330 tokens"),
    "token ids": (gap_in_ids, "'<far>' has the id 9999"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_source_is_one_line_and_leaves_nothing(case, tmp_path, capsys):
    change, words = CASES[case]
    write_original(tmp_path / "original", "internlm2")
    change(tmp_path / "original")
    assert main(["convert", "internvl2", str(tmp_path / "original"), str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and words in error and "\n" not in error, error
    assert os.listdir(tmp_path) == ["original"]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["sliding_window"], 63, "sliding_window is 63, less than max_position_embeddings"),
        (["original_max_position_embeddings"], 1, "original_max_position_embeddings is 1, expected 2 or more"),
        (["rope_scaling", "long_factor"], [1.0], "rope_scaling.long_factor is no list of 4 numbers"),
    ],
)
def test_phi3_that_no_llama_computes_is_refused(path, value, words, tmp_path):
    write_original(tmp_path / "original", "phi3")
    set_field("llm_config", *path, value=value)(tmp_path / "original")
    with pytest.raises(UserError, match=words):
        convert_internvl2(tmp_path / "original", tmp_path / "new")


@pytest.mark.parametrize("kind", ["file", "folder", "itself"])
def test_destination_that_holds_something_is_left_alone(kind, tmp_path):
    write_original(tmp_path / "original", "llama")
    target = tmp_path / ("original" if kind == "itself" else "new")
    if kind == "file":
        target.write_text("mine")
    elif kind == "folder":
        target.mkdir()
        (target / "notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="expected a new or an empty folder"):
        convert_internvl2(tmp_path / "original", target)
    assert sorted(tmp_path.rglob("*")) == before


def test_destination_inside_the_source_is_refused(tmp_path, capsys):
    write_original(tmp_path / "original", "llama")
    before = sorted(tmp_path.rglob("*"))
    assert main(["convert", "internvl2", str(tmp_path / "original"), str(tmp_path / "original" / "hf" / "new")]) == 2
    assert "lies inside the source" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_empty_destination_is_used(tmp_path):
    write_original(tmp_path / "original", "llama")
    (tmp_path / "deep" / "new").mkdir(parents=True)
    convert_internvl2(tmp_path / "original", tmp_path / "deep" / "new")
    assert (tmp_path / "deep" / "new" / "config.json").is_file()


def test_link_to_another_folder_stays_one(tmp_path):
    write_original(tmp_path / "original", "llama")
    (tmp_path / "large").mkdir()
    (tmp_path / "new").symlink_to(tmp_path / "large")
    convert_internvl2(tmp_path / "original", tmp_path / "new")
    assert (tmp_path / "new").is_symlink() and (tmp_path / "large" / "config.json").is_file()


def test_disk_too_small(tmp_path, monkeypatch):
    write_original(tmp_path / "original", "llama")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(UserError, match=r"takes 0\.07 GB, but 0\.00 GB are free$"):
        convert_internvl2(tmp_path / "original", tmp_path / "some" / "new")
    assert os.listdir(tmp_path) == ["original"]
    (tmp_path / ".new.123.tmp").mkdir()
    with pytest.raises(UserError, match=r"\.new\.123\.tmp may be left from a conversion that was killed"):
        convert_internvl2(tmp_path / "original", tmp_path / "new")


def test_conversion_after_a_killed_one(tmp_path, monkeypatch):
    """Until the end nothing is at the destination, so that whoever is killed leaves a hidden folder at most."""
    write_original(tmp_path / "original", "llama")
    left, new = tmp_path / f".new.{os.getpid()}.tmp", tmp_path / "new"
    left.mkdir()
    (left / "model-00009-of-00009.safetensors").write_bytes(b"half")

    def watched(*arguments):
        assert not new.exists()
        save_file(*arguments)

    monkeypatch.setattr("yopo_train.convert.output.save_file", watched)
    convert_internvl2(tmp_path / "original", new)
    assert len(list(new.glob("model-*.safetensors"))) == 4 and sorted(os.listdir(tmp_path)) == ["new", "original"]


def test_disk_that_fills_up_leaves_nothing(tmp_path, monkeypatch):
    write_original(tmp_path / "original", "llama")
    written = []

    def full(tensors, path, metadata):
        if written:
            raise OSError(28, "No space left on device")
        written.append(path)
        save_file(tensors, path, metadata)

    monkeypatch.setattr("yopo_train.convert.output.save_file", full)
    with pytest.raises(UserError, match="No space left"):
        convert_internvl2(tmp_path / "original", tmp_path / "new")
    assert written and os.listdir(tmp_path) == ["original"]


def test_shard_that_breaks_while_it_is_read_leaves_nothing(tmp_path, monkeypatch):
    """A header may be whole where the data is not."""
    from yopo_train.convert.shards import Shard

    write_original(tmp_path / "original", "llama")
    read = Shard.tensors

    def broken(self):
        yield from read(self)
        if self.path.name == SECOND:
            raise self._damaged(OSError("Input/output error"))

    monkeypatch.setattr(Shard, "tensors", broken)
    with pytest.raises(UserError, match=f"{SECOND}.*Input/output error"):
        convert_internvl2(tmp_path / "original", tmp_path / "new")
    assert os.listdir(tmp_path) == ["original"]
