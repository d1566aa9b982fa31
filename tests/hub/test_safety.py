"""What strangers could put into a folder: one line each, quickly, and without reading what the files claim to hold."""

import ast
import io
import json
import pickle
import resource
import shutil
from pathlib import Path

import pytest
import torch
from hub.pushed_run import make_run
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from toy_scores import random_scores

import yopo_train
from yopo_train.errors import UserError
from yopo_train.head_masks import read_head_mask
from yopo_train.hub.contents import check
from yopo_train.hub.folder import export
from yopo_train.hub.safety import check_folder, check_names, is_allowed
from yopo_train.plan import ModelDims, PruningPlan
from yopo_train.tensor_header import read_header


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tiny_vlm):
    place = tmp_path_factory.mktemp("safety")
    return export(make_run(place / "run", tiny_vlm), place / "folder", base_model="org/tiny")


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "folder")


def refused(folder, message):
    """One line, and not much memory for it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=message) as caught:
        check(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


def tensor_file(tensors: dict, metadata: dict | None = None, data: int = 0, length: int | None = None) -> bytes:
    """A safetensors file whose header says anything."""
    header = json.dumps({**({"__metadata__": metadata} if metadata is not None else {}), **tensors}).encode()
    return (length if length is not None else len(header)).to_bytes(8, "little") + header + bytes(data)


def entry(dtype="BOOL", shape=(2, 2), begin=0, end=4):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


DIMS = {"layers": 2, "hidden": 4, "intermediate": 3, "heads": 2, "kv_heads": 2, "head_dim": 2}
MASKS = {"heads": entry(), "channels": entry(shape=(2, 3), begin=4, end=10)}


def plan_file(dims=None, tensors=None, data=10, **header) -> bytes:
    about = {"kind": "plan", "version": 1, "dims": {**DIMS, **(dims or {})}, "depth": 1, "radius": None, **header}
    return tensor_file(tensors or MASKS, {"yopo_train": json.dumps(about)}, data)


def test_the_sample_is_a_plan_until_something_is_wrong_with_it(folder):
    (folder / "adapter_config.json").unlink(), (folder / "adapter_model.safetensors").unlink()
    (folder / "plan.safetensors").write_bytes(plan_file(base_model=None, revision=None, made_by={}, cost={}))
    assert check(folder).plan.depth == 1


HUGE = 2**40
HOSTILE_PLANS = {
    "length": (tensor_file({}, length=2**63), "cut off"),
    "long header": (tensor_file({}, {"a": "b" * (2 << 20)}), "header has .* expected at most"),
    "no json": ((4).to_bytes(8, "little") + b"nope", "no JSON"),
    "empty": (b"", "cut off"),
    "deep": ((200_000).to_bytes(8, "little") + b"[" * 200_000, "no JSON"),
    "a list": ((2).to_bytes(8, "little") + b"[]", "damaged header"),
    "huge shape": (plan_file(tensors={"heads": entry(shape=(HUGE, HUGE), end=HUGE * HUGE)}), "no proper shape"),
    "many axes": (plan_file(tensors={"heads": entry(shape=[9**9] * 50_000)}), "no proper shape"),
    "huge dims": (plan_file({"layers": HUGE}), "dimension layers is"),
    "dims of text": (plan_file({"heads": "2"}), "dimension heads is '2'"),
    "dims that the masks do not have": (plan_file({"intermediate": 4}), r"expected .*channels.*\(2, 4\)"),
    "other types": (plan_file(tensors={"heads": entry("U8"), "channels": MASKS["channels"]}), "heads.: U8"),
    "more tensors": (plan_file(tensors=MASKS | {"more": entry(shape=(1,), begin=10, end=11)}, data=11), "more"),
    "no tensors": (
        tensor_file({}, {"yopo_train": json.dumps({"kind": "plan", "dims": DIMS, "depth": 1, "radius": 0})}),
        "holds no tensor",
    ),
    "overlap": (plan_file(tensors={"heads": entry(), "channels": entry()}, data=4), "overlap"),
    "a gap": (plan_file(tensors={"heads": entry(), "channels": entry(shape=(2, 3), begin=8, end=14)}, data=14), "gap"),
    "bytes left": (plan_file(data=1000), "10 bytes in 1000"),
    "unknown type": (plan_file(tensors={"heads": entry("OBJECT")}), "unknown type"),
    "radius": (plan_file(radius=10**30), "radius is"),
    "depth": (plan_file(depth=[1]), "depth is"),
    "deep metadata": (tensor_file(MASKS, {"yopo_train": "[" * 100_000}, 10), "without a plan's header"),
    "metadata of numbers": (tensor_file(MASKS, {"yopo_train": 3}, 10), "metadata that is not text"),
    "base": (plan_file(base_model={"a": 1}), "base_model is"),
    "another kind": (plan_file(kind="scores"), "holds 'scores'"),
}


@pytest.mark.parametrize("name", HOSTILE_PLANS)
def test_a_hostile_plan_is_refused(folder, name):
    content, message = HOSTILE_PLANS[name]
    (folder / "plan.safetensors").write_bytes(content)
    refused(folder, message)
    with pytest.raises(UserError):
        PruningPlan.load(folder / "plan.safetensors")


def test_a_huge_plan_is_refused_by_its_size(folder):
    with (folder / "plan.safetensors").open("wb") as file:
        file.truncate(1 << 36)  # takes no room
    refused(folder, "has 68719476736 bytes, expected at most")
    with pytest.raises(UserError, match="expected at most"):
        PruningPlan.load(folder / "plan.safetensors")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300) | st.builds(lambda text: len(text).to_bytes(8, "little") + text, st.binary(max_size=80)))
def test_any_bytes_are_a_header_or_one_line(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "any.safetensors"
    file.write_bytes(content)
    try:
        read_header(file)
    except UserError as error:
        assert "\n" not in str(error)


def test_headers_are_read_as_safetensors_reads_them(tmp_path):
    tensors = {"a": torch.zeros(2, 3), "b.c": torch.zeros(0, dtype=torch.bfloat16), "d": torch.tensor(True)}
    save_file(tensors, tmp_path / "x.safetensors", {"key": "value"})
    header = read_header(tmp_path / "x.safetensors")
    assert header.metadata == {"key": "value"}
    found = {name: (item.dtype, item.shape) for name, item in header.tensors.items()}
    assert found == {"a": ("F32", (2, 3)), "b.c": ("BF16", (0,)), "d": ("BOOL", ())}


def test_scores_that_are_not_numbers_are_refused(folder):
    scores = random_scores(PruningPlan.load(folder / "plan.safetensors").dims)
    scores.rho[0, 1, 0] = float("nan")
    scores.save(folder / "scores.safetensors")
    refused(folder, "rho is not finite in layer 1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "peft_type LORA"),
        ({"megatron_config": {"a": 1}}, "megatron_config"),
        ({"megatron_core": "os"}, "megatron_core is 'os'"),
        ({"corda_config": {"cache_file": "/tmp/x.pt"}}, "corda_config"),
        ({"eva_config": {}, "something_new": "x"}, "something_new"),
        ({"layer_replication": [[0, 4]]}, "layer_replication"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights"),
        ({"r": 10**9}, "'r' is 1000000000, but the largest rank among the weights is 4"),
        ({"rank_pattern": {"q_proj": 10**9}}, "q_proj"),
        ({"r": "4"}, "'r' is '4'"),
        ({"target_modules": "(a+)+$"}, "could take for ever"),
        ({"target_modules": ".*a.*b.*c.*d.*e.*f.*g.*"}, "could take for ever"),
        ({"target_modules": r"[\w.]*" * 10 + "!"}, "could take for ever"),
        ({"target_modules": "(?:.|.)" * 25 + "!"}, "could take for ever"),
        ({"target_modules": "(?:.?.?){9}!"}, "could take for ever"),
        ({"target_modules": "("}, "not a regular expression"),
        ({"target_modules": [3]}, "expected text"),
        ({"base_model_name_or_path": ["a"]}, "base_model_name_or_path"),
    ],
    ids=str,
)
def test_a_hostile_adapter_configuration_is_refused(folder, change, message):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    refused(folder, message)


@pytest.mark.parametrize("content", ["[" * 100_000, "{", "\x00", '{"a": ' + "9" * 5000 + "}", "[]"])
def test_a_damaged_adapter_configuration_is_refused(folder, content):
    (folder / "adapter_config.json").write_text(content)
    refused(folder, "adapter_config.json")


def test_hostile_adapter_weights_are_refused(folder):
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    save_file(weights | {"vision_tower.weight": torch.zeros(2)}, file)
    refused(folder, "vision_tower.weight")
    save_file({name: weight.long() for name, weight in weights.items()}, file)
    refused(folder, "I64")
    file.write_bytes(tensor_file({"base_model.model.x.lora_A.weight": entry("F32", (HUGE, 4), end=16 * HUGE)}))
    refused(folder, "tensors of")
    file.unlink()
    ranks = {"base_model.model.x.lora_A.weight": torch.zeros(1 << 16, 1), **weights}
    save_file(ranks, file)
    settings = folder / "adapter_config.json"
    about = settings.read_text()
    settings.write_text(json.dumps(json.loads(about) | {"r": 1 << 16}))
    refused(folder, "'r' is 65536, but the largest rank among the weights is 4")
    file.unlink()
    refused(folder, "without adapter_model.safetensors")


@pytest.mark.parametrize(
    "name", ["../x.json", "a/../../x.json", "/etc/passwd", "..\\x.json", "C:/x.json", "~/x", "a/..", "../../.ssh/id"]
)
def test_names_that_lead_out_of_the_folder_are_refused(name):
    with pytest.raises(UserError, match="leads out of the folder"):
        check_names(["README.md", name], "user/name")


@pytest.mark.parametrize("name", ["a\nb.json", "-rf.json", "a b.md", "\x1b[31m.txt", "x" * 300 + ".json", "a//b.json"])
def test_names_that_no_run_has_are_refused(name):
    with pytest.raises(UserError, match="is refused"):
        check_names([name], "user/name")


def test_only_known_kinds_of_files_are_taken():
    names = ["README.md", "plots/heat.png", "chat_template.jinja", "modeling.py", "pytorch_model.bin", "x.pth", "a.pkl"]
    names += [".gitattributes", ".cache/x.json", "tokenizer.model", "run.sh", "x.safetensors.exe"]
    assert check_names(names, "user/name") == ["README.md", "chat_template.jinja", "plots/heat.png"]
    assert not is_allowed("adapter_model.bin")
    with pytest.raises(UserError, match="more than"):
        check_names((f"{number}.json" for number in range(5000)), "user/name")


def test_an_exported_folder_is_safe(exported):
    assert set(check_folder(exported)) == {path.name for path in exported.iterdir()}


class Attack:
    def __reduce__(self):
        return print, ("this must not run",)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".npy"])
def test_a_pickle_in_a_head_mask_is_not_run(tmp_path, suffix, capsys):
    content = io.BytesIO()
    if suffix == ".npy":
        import numpy as np

        np.save(content, np.array([Attack()], dtype=object), allow_pickle=True)
    else:
        torch.save(Attack(), content)
    dims = ModelDims(**DIMS)
    for data in (content.getvalue(), pickle.dumps(Attack())):
        (tmp_path / f"mask{suffix}").write_bytes(data)
        with pytest.raises(UserError, match="not readable as a head mask"):
            read_head_mask(tmp_path / f"mask{suffix}", dims)
    assert "must not run" not in capsys.readouterr().out


def calls(tree: ast.AST) -> list[tuple[str, dict[str, ast.expr]]]:
    """Every call by name, with its keywords."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [(ast.unparse(node.func), {word.arg: word.value for word in node.keywords}) for node in found]


def test_nothing_in_the_package_unpickles_or_runs_what_it_reads():
    seen = set()
    for file in Path(yopo_train.__file__).parent.rglob("*.py"):
        for name, words in calls(ast.parse(file.read_text())):
            said = {word: ast.unparse(value) for word, value in words.items() if word is not None}
            assert said.get("trust_remote_code", "False") == "False", file
            assert said.get("allow_pickle", "False") == "False", file
            assert name not in {"pickle.load", "pickle.loads", "yaml.load", "eval", "exec", "joblib.load"}, file
            if name == "torch.load":
                assert said.get("weights_only") == "True", file
                seen.add(file.name)
    assert "head_masks.py" in seen
