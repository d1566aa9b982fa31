"""InternVL-2.0 converted: loads in silence and computes what the original's tensors compute."""

import math
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from toy import random_plan, toy_dims
from transformers import AutoModelForImageTextToText, LlamaConfig, Phi3Config
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from convert import internvl_original, plain_internvl
from convert.folders import spm_encode, write_json
from convert.internvl_original import IMAGE, LAYERS, config, edit_config, write_original, write_tokenizer
from yopo_train.convert import convert_internvl2
from yopo_train.convert.files import ConfigSection
from yopo_train.convert.phi3 import PHI3
from yopo_train.data.conversation import Chat
from yopo_train.models import load_base
from yopo_train.pruning import prune, unprune

KINDS = [("internlm2", "300m"), ("internlm2", "6b"), ("phi3", "300m"), ("qwen2", "300m"), ("llama", "6b")]


def load(folder):
    model, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


def prompt(model, texts, tiles=2, seed=1):
    """Random ids with ``tiles`` tiles of four visual tokens between two texts, and their pixels."""
    generator = torch.Generator().manual_seed(seed)
    before, after = (torch.randint(3, 300, (length,), generator=generator) for length in texts)
    image = torch.full((4 * tiles,), model.config.image_token_id)
    pixels = torch.randn(tiles, 3, IMAGE, IMAGE, generator=generator)
    return torch.cat([before, image, after]), pixels


@pytest.mark.parametrize(("kind", "vit"), KINDS)
@pytest.mark.parametrize("texts", [(3, 5), (9, 20)], ids=["short", "beyond the trained length"])
def test_logits_are_those_of_the_original_tensors(kind, vit, texts, tmp_path, capfd):
    tensors = write_original(tmp_path / "original", kind, vit)
    convert_internvl2(tmp_path / "original", tmp_path / "new")
    capfd.readouterr()
    model = load(tmp_path / "new")
    heard = capfd.readouterr()
    assert "missing" not in (heard.out + heard.err).lower() and "unexpected" not in (heard.out + heard.err).lower()
    ids, pixels = prompt(model, texts)
    with torch.no_grad():
        found = model(input_ids=ids[None], pixel_values=pixels).logits[0]
    expected = plain_internvl.logits(kind, tensors, config(kind, vit), ids, model.config.image_token_id, pixels)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert model.lm_head.weight is not model.get_input_embeddings().weight


@pytest.mark.parametrize("select_layer", [-2, 1])
def test_other_vision_layers(select_layer, tmp_path):
    tensors = write_original(tmp_path / "original", "llama", select_layer=select_layer)
    convert_internvl2(tmp_path / "original", tmp_path / "new")
    model = load(tmp_path / "new")
    ids, pixels = prompt(model, (3, 5))
    original = config("llama", select_layer=select_layer)
    expected = plain_internvl.logits("llama", tensors, original, ids, model.config.image_token_id, pixels)
    with torch.no_grad():
        found = model(input_ids=ids[None], pixel_values=pixels).logits[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_tied_head_is_not_stored(tmp_path):
    tensors = write_original(tmp_path / "original", "qwen2")
    edit_config(tmp_path / "original", lambda content: content["llm_config"].update(tie_word_embeddings=True))
    convert_internvl2(tmp_path / "original", tmp_path / "new")
    model = load(tmp_path / "new")
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert torch.equal(model.lm_head.weight, tensors["language_model.model.embed_tokens.weight"])


@pytest.mark.parametrize("tokens", [4096, 4097])
def test_long_rope_of_a_llama_is_phi3s(tokens):
    """At the dimensions of InternVL2-4B, and as the original's Phi3SuScaledRotaryEmbedding computes it."""
    dim, original, positions = 96, 4096, 131072
    short = [1 + i / 50 for i in range(dim // 2)]
    scaling = {"type": "su", "short_factor": short, "long_factor": [2 * factor for factor in short]}
    sizes = {"hidden_size": 192, "num_attention_heads": 2, "max_position_embeddings": positions, "vocab_size": 9}
    fields = {**sizes, "intermediate_size": 8, "num_hidden_layers": 1, "rms_norm_eps": 1e-5}
    fields |= {"original_max_position_embeddings": original, "rope_theta": 10000.0}
    llama = PHI3.text_config(ConfigSection("", {**fields, "rope_scaling": scaling}))
    assert isinstance(llama, LlamaConfig)
    phi = Phi3Config(**fields, pad_token_id=0, rope_scaling={**scaling, "type": "longrope"})
    ids, x = torch.arange(tokens - 3, tokens)[None], torch.zeros(1)
    (cos, sin), (expected_cos, expected_sin) = (
        rotary(x, ids) for rotary in (LlamaRotaryEmbedding(llama), Phi3RotaryEmbedding(phi))
    )
    assert torch.equal(cos, expected_cos) and torch.equal(sin, expected_sin)
    factors = torch.tensor(scaling["long_factor" if tokens > original else "short_factor"])
    angles = ids[0, :, None] / (factors * 10000.0 ** (torch.arange(0, dim, 2) / dim))
    scale = math.sqrt(1 + math.log(positions / original) / math.log(original))
    torch.testing.assert_close(cos[0, :, : dim // 2], angles.cos() * scale, atol=2e-3, rtol=0)


PHI3_SIZES = {"HIDDEN": 3072, "WIDTH": 8192, "LAYERS": 32, "HEADS": 32, "KV_HEADS": 32, "VOCABULARY": 32020}
REAL = {
    "4b": ("phi3", "300m", 4.15e9, PHI3_SIZES),
    "8b": ("internlm2", "300m", 16_150_730_752 / 2, {"HIDDEN": 4096, "WIDTH": 14336, "LAYERS": 32, "HEADS": 32}),
    "26b": ("internlm2", "6b", 25.5e9, {"HIDDEN": 6144, "WIDTH": 16384, "LAYERS": 48, "HEADS": 48}),
}
REAL_TOWERS = {
    "300m": {"VIT": 1024, "VIT_HEADS": 16, "VIT_WIDTH": 4096, "VIT_LAYERS": 24},
    "6b": {"VIT": 3200, "VIT_HEADS": 25, "VIT_WIDTH": 12800, "VIT_LAYERS": 45},
}
"""Sizes of InternVL2's published config.json files; parameters: from the bytes of 8B's real index, else rounded."""


@pytest.mark.parametrize("size", REAL)
def test_real_sizes(size, tmp_path, monkeypatch):
    """From names and shapes alone: every tensor has its place in the model of the real config.json."""
    kind, vit, parameters, sizes = REAL[size]
    sizes = {"KV_HEADS": 8, "VOCABULARY": 92553, "IMAGE": 448, "PATCH": 14, **sizes, **REAL_TOWERS[vit]}
    sizes |= {"HEAD_DIM": sizes["HIDDEN"] // sizes["HEADS"], "GROUP": sizes["HEADS"] // sizes["KV_HEADS"]}
    for name, value in sizes.items():
        monkeypatch.setattr(internvl_original, name, value)
    shapes = internvl_original.all_shapes(kind, vit)
    tensors = {name: torch.empty(shape, dtype=torch.bfloat16, device="meta") for name, shape in shapes.items()}
    shard = SimpleNamespace(path=tmp_path / "all", header=lambda: tensors)
    monkeypatch.setattr("yopo_train.convert.internvl2.find_shards", lambda folder: [shard])
    written = []
    monkeypatch.setattr("yopo_train.convert.internvl2.write_model", lambda folder, jobs, rest: written.extend(jobs))
    write_json(tmp_path / "config.json", config(kind, vit))
    write_tokenizer(tmp_path, kind)
    convert_internvl2(tmp_path, tmp_path.parent / "new")
    assert written[0].size / 2 == pytest.approx(parameters, rel=0 if size == "8b" else 0.002)


# -- the processor, and yopo_train ------------------------------------------------------------------------------------
TURNS = {
    "internlm2": (
        "<|im_start|>system\n",
        "<|im_end|><|im_start|>user\n",
        "<|im_end|><|im_start|>assistant\n",
        "<|im_end|>",
    ),
    "phi3": ("<|system|>\n", "<|end|><|user|>\n", "<|end|><|assistant|>\n", "<|end|>"),
}


@pytest.fixture(scope="module", params=list(TURNS))
def converted(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    write_original(folder / "original", request.param)
    convert_internvl2(folder / "original", folder / "new")
    return request.param, *load_base(folder / "new")


def test_chat_is_the_originals(converted):
    kind, _, processor = converted
    system, user, assistant, end = TURNS[kind]
    messages = [{"role": "user", "content": "<image>\nis the red in?"}, {"role": "assistant", "content": "the ab"}]
    text, spans = Chat(processor).answer_spans(messages)
    assert text.startswith(system + "你是由") and "助手。" + user in text
    assert text.endswith(f"{user}<IMG_CONTEXT>\nis the red in?{assistant}the ab{end}")
    assert [text[slice(*span)] for span in spans] == ["the ab" + end]
    own = Chat(processor).render([{"role": "system", "content": "ab"}, *messages[:1]], prompt=True)
    assert own == f"{system}ab{user}<IMG_CONTEXT>\nis the red in?{assistant}"


def test_tokens_are_sentencepieces(converted, tmp_path):
    kind, model, processor = converted
    tokenizer, original = processor.tokenizer, write_tokenizer(tmp_path, kind)
    for text in ("is the red in?", "a b  the!", "你 ab\n\nthe"):
        ids = tokenizer(text)["input_ids"]
        assert ids == [1, *spm_encode(original, text)]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    for token, number in [("<img>", 0), ("</img>", 1), ("<IMG_CONTEXT>", 2)]:
        assert tokenizer.convert_tokens_to_ids(token) == tokenizer.convert_tokens_to_ids("<img>") + number
    assert (
        tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
        == model.config.image_token_id
        < model.config.text_config.vocab_size
    )
    assert tokenizer.convert_tokens_to_ids(TURNS[kind][3]) in model.generation_config.eos_token_id


def test_converted_model_is_pruned_and_generates(converted):
    _, model, processor = converted
    image = Image.new("RGB", (2 * IMAGE, IMAGE), "red")
    batch = processor(text="is <IMG_CONTEXT>\nthe red?", images=[image], return_tensors="pt")
    assert batch["pixel_values"].shape == (3, 3, IMAGE, IMAGE)  # two tiles and the thumbnail
    assert (batch["input_ids"] == model.config.image_token_id).sum() == 3 * 4
    with torch.no_grad():
        dense = model(**batch).logits
        plan = random_plan(toy_dims(model), depth=LAYERS - 1, radius=0)
        pruned = {}
        for backend in ("compact", "reference"):
            network = prune(model, plan, backend=backend)
            pruned[backend] = network(**batch).logits[:, -6:].clone()
            if backend == "compact":
                assert (
                    network.generate(**batch, max_new_tokens=2, do_sample=False).shape[1] > batch["input_ids"].shape[1]
                )
            unprune(network)
        assert torch.equal(model(**batch).logits, dense)
    torch.testing.assert_close(pruned["compact"], pruned["reference"], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(pruned["compact"], dense[:, -6:], atol=1e-3)
