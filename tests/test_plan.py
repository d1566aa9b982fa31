"""Plans: validation, identity, and the file."""

from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from toy import random_plan

from yopo_train.errors import UserError
from yopo_train.plan import ModelDims, PruningPlan
from yopo_train.tensor_file import write_tensor_file

DIMS = ModelDims(layers=4, hidden=16, intermediate=24, heads=4, kv_heads=2, head_dim=4)


@st.composite
def plans(draw) -> PruningPlan:
    kv_heads, group, layers = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    dims = ModelDims(layers, 8, draw(st.integers(1, 9)), kv_heads * group, kv_heads, 4)
    radius = draw(st.none() | st.integers(0, 5))
    shares = draw(st.sampled_from([0.3, 0.6, 1.0])), draw(st.sampled_from([0.3, 0.6, 1.0]))
    plan = random_plan(dims, draw(st.integers(0, layers)), radius, draw(st.integers(0, 999)), *shares)
    return replace(
        plan, base_model=draw(st.none() | st.text()), made_by={"seed": 1}, cost={"flops": 0.5}, architecture={"a": 1}
    )


@given(plans())
@settings(max_examples=30, deadline=None)
def test_save_and_load_give_the_same_plan(tmp_path_factory, plan):
    path = tmp_path_factory.mktemp("plan") / "plan.safetensors"
    plan.save(path)
    loaded = PruningPlan.load(path)
    assert torch.equal(loaded.heads, plan.heads) and torch.equal(loaded.channels, plan.channels)
    for name in ("dims", "radius", "depth", "base_model", "revision", "semantics", "id"):
        assert getattr(loaded, name) == getattr(plan, name), name
    for name in ("made_by", "cost", "architecture"):
        assert getattr(loaded, name) == getattr(plan, name), name
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]  # no temporary file stays


@given(plans())
@settings(max_examples=30, deadline=None)
def test_kv_heads_are_needed_where_a_query_head_reads_them(plan):
    group = plan.dims.heads // plan.dims.kv_heads
    for layer in range(plan.dims.layers):
        needed = {head // group for head in plan.heads[layer].nonzero().flatten().tolist()}
        assert plan.kv_heads_needed(layer).nonzero().flatten().tolist() == sorted(needed)


def test_a_plan_of_format_1_has_no_architecture(tmp_path):
    dense = PruningPlan.dense(DIMS)
    header = {"dims": asdict(DIMS), "radius": None, "depth": 4, "base_model": "org/model", "semantics": "compact"}
    write_tensor_file(tmp_path / "plan", "plan", 1, {"heads": dense.heads, "channels": dense.channels}, header)
    loaded = PruningPlan.load(tmp_path / "plan")
    assert (loaded.id, loaded.architecture, loaded.base_model) == (dense.id, {}, "org/model")


def test_dense_plan_and_id():
    dense = PruningPlan.dense(DIMS)
    assert dense.is_dense and dense.id == PruningPlan.dense(DIMS).id and len(dense.id) == 12
    heads = dense.heads.clone()
    heads[1, 2] = False
    others = [
        PruningPlan(DIMS, heads, dense.channels, None, 4),
        PruningPlan(DIMS, dense.heads, dense.channels, 0, 4),
        PruningPlan(DIMS, dense.heads, dense.channels, None, 4, semantics="official"),
    ]
    assert len({plan.id for plan in [dense, *others]}) == 4
    assert not others[0].is_dense and not others[1].is_dense
    assert "depth 4 of 4, radius off, heads 93.8 %, channels 100.0 %" in others[0].describe()
    nothing = PruningPlan(DIMS, torch.zeros_like(heads), torch.zeros_like(dense.channels), None, 0)
    assert "depth 0 of 4" in nothing.describe()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 5}, "plan depth is 5, expected an integer from 0 to 4"),
        ({"depth": True}, "plan depth is True"),
        ({"depth": 3}, "plan heads is active in a layer >= depth"),
        ({"radius": -1}, "plan radius is -1"),
        ({"radius": 1.5}, "plan radius is 1.5"),
        ({"radius": 10**30}, "plan radius is 1000.*, expected None or an integer from 0 to 16777216"),
        ({"base_model": {"a": 1}}, "plan base_model is {'a': 1}, expected None or text"),
        ({"revision": 3}, "plan revision is 3"),
        ({"semantics": "other"}, "plan semantics is 'other', expected one of compact, official"),
        ({"heads": torch.ones(4, 4)}, "plan heads is of type torch.float32, expected a bool tensor"),
        ({"heads": [[True]]}, "plan heads is of type list"),
        ({"channels": torch.ones(4, 23, dtype=torch.bool)}, r"plan channels has shape \(4, 23\), expected \(4, 24\)"),
    ],
)
def test_invalid_plans_are_refused(change, message):
    dense = PruningPlan.dense(DIMS)
    values = {"dims": DIMS, "heads": dense.heads, "channels": dense.channels, "radius": None, "depth": 4}
    with pytest.raises(UserError, match=message):
        PruningPlan(**{**values, **change})


@pytest.mark.parametrize("change", [{"layers": 0}, {"heads": 3}, {"hidden": 1.5}])
def test_invalid_dimensions_are_refused(change):
    values = {"layers": 1, "hidden": 8, "intermediate": 8, "heads": 4, "kv_heads": 2, "head_dim": 4}
    with pytest.raises(UserError, match=f"model dimension {next(iter(change))}"):
        ModelDims(**{**values, **change})


def test_a_plan_of_another_model_is_refused():
    plan = PruningPlan.dense(DIMS)
    plan.base_model = "org/small"
    plan.check(DIMS, "model")
    other = ModelDims(layers=4, hidden=16, intermediate=25, heads=4, kv_heads=4, head_dim=4)
    with pytest.raises(UserError, match=r"some/path: the model has intermediate = 25, .* = 24 \(org/small"):
        plan.check(other, "some/path")


def test_bad_files_are_refused(tmp_path):
    path, plan = tmp_path / "plan.safetensors", PruningPlan.dense(DIMS)
    header = {"dims": asdict(DIMS), "radius": None, "depth": 4}
    masks = {"heads": plan.heads, "channels": plan.channels}

    def refused(message: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            PruningPlan.load(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)

    refused("no such file")
    plan.save(path)
    path.write_bytes(path.read_bytes()[:-10])
    refused("not a readable safetensors file")
    path.write_bytes(b"hello")
    refused("not a readable safetensors file")
    save_file(masks, path)
    refused("without a yopo_train header")
    save_file(masks, path, {"yopo_train": "[1]"})
    refused("without a yopo_train header")
    write_tensor_file(path, "scores", 1, masks, header)
    refused("holds scores, expected a plan file")
    write_tensor_file(path, "plan", 3, masks, header)
    refused("plan format 3 is newer")
    write_tensor_file(path, "plan", 1, masks, {**header, "dims": {**asdict(DIMS), "layers": 5}})
    refused(r"plan heads has shape \(4, 4\), expected \(5, 4\)")
    write_tensor_file(path, "plan", 1, {"heads": plan.heads}, header)
    refused("damaged plan.*channels")
    write_tensor_file(path, "plan", 1, masks, {**header, "colour": 1})
    refused("damaged plan.*colour")
    write_tensor_file(path, "plan", 1, masks, {"depth": 4})
    refused("damaged plan.*dims")


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "plan.safetensors"
    PruningPlan.dense(DIMS).save(path)
    before = path.read_bytes()
    with pytest.raises(UserError, match="cannot write the plan"):
        PruningPlan.dense(DIMS).save(tmp_path / "missing" / "plan.safetensors")

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(UserError, match="No space left"):
        PruningPlan.dense(DIMS).save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
