"""Statistics against attention weights and hidden states computed in the open."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import IMAGE_TOKEN, toy_batch, toy_llava

from yopo_train.calibration import calibrate, collect
from yopo_train.calibration.weight_norms import WeightNorms
from yopo_train.errors import UserError

MODELS = {kv_heads: toy_llava(kv_heads, layers=3) for kv_heads in (4, 2, 1)}
SAMPLES = [[2, "image", 4], ["image", 1], [3, "image", 1, "image", 2]]


def one_by_one(batch: dict) -> list[dict]:
    """The samples of a batch as batches of one, without padding."""
    singles, used = [], 0
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True):
        images = int((ids == IMAGE_TOKEN).sum()) // 16
        inputs = {"input_ids": ids[mask][None], "attention_mask": mask[mask][None].long()}
        singles.append(inputs | {"pixel_values": batch["pixel_values"][used : used + images]})
        used += images
    return singles


def eager_rho(model, batch: dict) -> torch.Tensor:
    """rho by its definition, from stored attention matrices."""
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            attentions = model(**batch, output_attentions=True).attentions
    finally:
        model.set_attn_implementation("sdpa")
    samples = []
    for row, ids in enumerate(batch["input_ids"].tolist()):
        visual = [i for i, token in enumerate(ids) if token == IMAGE_TOKEN]
        others = [i for i in batch["attention_mask"][row].nonzero().flatten().tolist() if i not in visual]
        queries = [i for i in others if i > visual[0]]
        weights = torch.stack([layer[row] for layer in attentions])[:, :, queries]
        samples.append(weights[..., visual].sum(dim=(-1, -2)) / weights[..., others].sum(dim=(-1, -2)))
    return torch.stack(samples)


@st.composite
def batches(draw) -> dict:
    """One to three prompts of one to three images; text in front and between, and always behind."""
    maybe_text = st.lists(st.integers(1, 4), max_size=1)
    samples = []
    for _ in range(draw(st.integers(1, 3))):
        images = [part for _ in range(draw(st.integers(1, 3))) for part in [*draw(maybe_text), "image"]]
        samples.append([*images, draw(st.integers(1, 4))])
    return toy_batch(samples, draw(st.sampled_from(["left", "right"])), draw(st.integers(0, 99)))


@given(batches(), st.sampled_from(sorted(MODELS)))
@settings(max_examples=40, deadline=None)
def test_rho_equals_eager_attention(batch, kv_heads):
    model = MODELS[kv_heads]
    torch.testing.assert_close(calibrate(model, [batch]).rho, eager_rho(model, batch), rtol=1e-4, atol=1e-6)


@given(batches())
@settings(max_examples=20, deadline=None)
def test_channel_scores_equal_the_definition(batch):
    model, visual, inputs = MODELS[2], batch["input_ids"] == IMAGE_TOKEN, []
    layers = model.model.language_model.layers
    hooks = [layer.mlp.register_forward_pre_hook(lambda module, args: inputs.append(args[0])) for layer in layers]
    with torch.no_grad():
        model(**batch)
        expected = []
        for layer, hidden in zip(layers, inputs, strict=True):
            mlp = layer.mlp
            hidden = torch.nn.functional.silu(mlp.gate_proj(hidden)) * mlp.up_proj(hidden)
            expected.append(hidden[visual].abs().sum(dim=0) * mlp.down_proj.weight.norm(dim=0))
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(calibrate(model, [batch]).channels, torch.stack(expected), rtol=1e-4, atol=1e-5)


@given(batches(), st.sampled_from(sorted(MODELS)))
@settings(max_examples=20, deadline=None)
def test_batch_size_and_padding_change_nothing(batch, kv_heads):
    model = MODELS[kv_heads]
    together, alone = calibrate(model, [batch]), calibrate(model, one_by_one(batch))
    torch.testing.assert_close(together.rho, alone.rho, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(together.channels, alone.channels, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together.neighbor_mass, alone.neighbor_mass, rtol=1e-4, atol=1e-6)


def test_chunks_of_queries_change_nothing(monkeypatch):
    batch = toy_batch(SAMPLES)
    whole = calibrate(MODELS[2], [batch])
    monkeypatch.setattr(collect, "CHUNK", 100)
    chunked = calibrate(MODELS[2], [batch])
    torch.testing.assert_close(chunked.rho, whole.rho)
    torch.testing.assert_close(chunked.neighbor_mass, whole.neighbor_mass)


def test_a_batch_without_attention_mask_has_no_padding():
    batch = toy_batch(SAMPLES[:1])
    masked = calibrate(MODELS[2], [batch]).rho
    del batch["attention_mask"]
    torch.testing.assert_close(calibrate(MODELS[2], [batch]).rho, masked)


def test_text_only_samples_do_not_count():
    mixed = toy_batch([[5], SAMPLES[2], [1]])
    single = one_by_one(mixed)[1]
    scores, alone = calibrate(MODELS[2], [mixed, toy_batch([[3], [1]])]), calibrate(MODELS[2], [single])
    assert scores.n_samples == 1
    torch.testing.assert_close(scores.rho, alone.rho, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(scores.channels, alone.channels, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores.neighbor_mass, alone.neighbor_mass, rtol=1e-4, atol=1e-6)


def test_bfloat16_is_close_to_float32():
    batch, model = toy_batch(SAMPLES), toy_llava(2).to(torch.bfloat16)
    half = calibrate(model, [{**batch, "pixel_values": batch["pixel_values"].bfloat16()}])
    full = calibrate(model.float(), [batch])
    assert half.rho.dtype == half.channels.dtype == torch.float32
    torch.testing.assert_close(half.rho, full.rho, rtol=0.3, atol=0.05)
    torch.testing.assert_close(half.channels, full.channels, rtol=0.3, atol=1.0)


def test_statistics_are_float32_while_the_model_runs_in_mixed_precision(monkeypatch):
    measured, hidden = [], []
    measure = collect.text_mass

    def recording(query, key, sample):
        measured.append((query, key, sample, measure(query, key, sample)))
        return measured[-1][-1]

    monkeypatch.setattr(collect, "text_mass", recording)
    model, batch = toy_llava(2), toy_batch(SAMPLES[:1])
    layers = model.model.language_model.layers
    for layer in layers:
        layer.mlp.down_proj.register_forward_pre_hook(lambda module, args: hidden.append(args[0]))
    with torch.autocast("cpu", torch.bfloat16):
        scores = calibrate(model, [batch])
    assert {activation.dtype for activation in hidden} == {torch.bfloat16}, "nothing ran in mixed precision"
    masses = torch.stack([measure(query.double(), key.double(), sample) for query, key, sample, _ in measured])
    torch.testing.assert_close(torch.stack([entry[-1] for entry in measured]).double(), masses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scores.rho[0].double(), masses[..., 0] / masses[..., 1], rtol=1e-5, atol=1e-6)
    visual = (batch["input_ids"] == IMAGE_TOKEN)[0]
    for layer, activation, score in zip(layers, hidden, scores.channels, strict=True):
        expected = activation[0, visual].double().abs().sum(0) * layer.mlp.down_proj.weight.double().norm(dim=0)
        torch.testing.assert_close(score.double(), expected, rtol=1e-5, atol=1e-6)


def test_weight_norms_equal_the_definition():
    norms = WeightNorms.of_model(MODELS[2])
    layer = MODELS[2].model.language_model.layers[1]
    attention, mlp = layer.self_attn, layer.mlp
    head = torch.cat([attention.q_proj.weight[12:24].flatten(), attention.o_proj.weight[:, 12:24].flatten()])
    channel = torch.cat([mlp.gate_proj.weight[3], mlp.up_proj.weight[3], mlp.down_proj.weight[:, 3]])
    torch.testing.assert_close(norms.heads[1, 1], head.norm().detach())
    torch.testing.assert_close(norms.channels[1, 3], channel.norm().detach())
    torch.testing.assert_close(norms.columns[1, 3], mlp.down_proj.weight[:, 3].norm().detach())


def test_no_text_behind_the_image_names_the_sample():
    batch = toy_batch([SAMPLES[0], [5, "image"]])
    with pytest.raises(UserError, match="calibration sample 1 has no text behind its image"):
        calibrate(MODELS[2], [batch])
    batch["meta"] = [{"id": "a-7"}, {"id": "b-9"}]
    with pytest.raises(UserError, match="calibration sample b-9 has no text behind its image"):
        calibrate(MODELS[2], [batch])
