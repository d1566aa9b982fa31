"""Original LLaVA-1.5 checkpoints converted to the llava-hf layout, and the plans of pruned ones."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import AutoModelForImageTextToText

from convert.folders import spm_encode
from convert.llava_original import CLIP_HEADS, HEADS, IMAGE, LAYERS, PATCH, PRUNED, VOCABULARY, WIDTH, write_original
from yopo_train.convert import convert_llava
from yopo_train.errors import UserError
from yopo_train.models import load_base
from yopo_train.plan import PruningPlan
from yopo_train.pruning import prune


def clip_states(t, pixels):
    """CLIP's hidden states from the tensors of its own checkpoint."""
    t = {name.removeprefix("vision_model."): value for name, value in t.items()}

    def linear(x, name):
        return F.linear(x, t[f"{name}.weight"], t[f"{name}.bias"])

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"], 1e-5)

    x = F.conv2d(pixels, t["embeddings.patch_embedding.weight"], stride=PATCH).flatten(2).transpose(1, 2)
    x = torch.cat([t["embeddings.class_embedding"].expand(len(x), 1, -1), x], dim=1)
    states = [norm(x + t["embeddings.position_embedding.weight"], "pre_layrnorm")]
    for layer in range(3):
        start, x = f"encoder.layers.{layer}.", states[-1]
        q, k, v = (
            linear(norm(x, f"{start}layer_norm1"), f"{start}self_attn.{name}_proj")
            .unflatten(-1, (CLIP_HEADS, -1))
            .transpose(1, 2)
            for name in "qkv"
        )
        mixed = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(-1) @ v
        x = x + linear(mixed.transpose(1, 2).flatten(2), f"{start}self_attn.out_proj")
        hidden = linear(norm(x, f"{start}layer_norm2"), f"{start}mlp.fc1")
        states.append(x + linear(hidden * torch.sigmoid(1.702 * hidden), f"{start}mlp.fc2"))
    return states


def original_logits(t, before, after, pixels):
    """Logits of ``before``, the image's 16 tokens and ``after``, from the original's tensors."""
    features = clip_states(t, pixels)[-2][:, 1:]
    features = F.gelu(F.linear(features, t["model.mm_projector.0.weight"], t["model.mm_projector.0.bias"]))
    features = F.linear(features, t["model.mm_projector.2.weight"], t["model.mm_projector.2.bias"])
    table = t["model.embed_tokens.weight"]
    x = torch.cat([table[before], features[0], table[after]])
    tokens, dim = len(x), x.shape[-1] // HEADS
    angles = torch.outer(torch.arange(tokens).float(), 10000.0 ** -(torch.arange(0, dim, 2) / dim)).repeat(1, 2)
    future = torch.ones(tokens, tokens).triu(1).bool()

    def norm(x, name):
        return t[f"{name}.weight"] * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)

    def turn(x):
        first, second = x.chunk(2, dim=-1)
        return x * angles.cos() + torch.cat([-second, first], dim=-1) * angles.sin()

    for layer in range(LAYERS):
        start = f"model.layers.{layer}."
        normed = norm(x, f"{start}input_layernorm")
        q, k, v = (
            (normed @ t[f"{start}self_attn.{name}_proj.weight"].T).unflatten(-1, (HEADS, dim)).transpose(0, 1)
            for name in "qkv"
        )
        scores = turn(q) @ turn(k).transpose(1, 2) / math.sqrt(dim)
        mixed = scores.masked_fill(future, -math.inf).softmax(-1) @ v
        x = x + mixed.transpose(0, 1).flatten(1) @ t[f"{start}self_attn.o_proj.weight"].T
        normed = norm(x, f"{start}post_attention_layernorm")
        gate, up = (normed @ t[f"{start}mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        x = x + (F.silu(gate) * up) @ t[f"{start}mlp.down_proj.weight"].T
    return norm(x, "model.norm") @ t["lm_head.weight"].T


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize("inside", [False, True], ids=["tower apart", "tower inside"])
def test_logits_are_those_of_the_original_tensors(inside, pickled, tmp_path):
    tensors = write_original(tmp_path / "original", tmp_path / "clip", inside, pickled)
    convert_llava(tmp_path / "original", tmp_path / "new", vision_tower=str(tmp_path / "clip"))
    model, report = AutoModelForImageTextToText.from_pretrained(tmp_path / "new", output_loading_info=True)
    assert not any(report.values()), report
    before, after = torch.tensor([1, 20, 300]), torch.tensor([7, 8, 90, 11])
    pixels = torch.randn(1, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(0))
    ids = torch.cat([before, torch.full((16,), model.config.image_token_id), after])
    with torch.no_grad():
        found = model.eval()(input_ids=ids[None], pixel_values=pixels).logits[0]
    expected = original_logits(tensors, before, after, pixels)
    torch.testing.assert_close(found[:, :VOCABULARY], expected, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava")
    tensors = write_original(folder / "original", folder / "clip")
    assert convert_llava(folder / "original", folder / "new") == []
    return tensors, folder / "new"


def test_new_tokens_are_the_mean_of_all_others(converted):
    tensors, folder = converted
    model, processor = load_base(folder)
    image, pad = (processor.tokenizer.convert_tokens_to_ids(token) for token in ("<image>", "<pad>"))
    assert model.config.image_token_id == image and model.config.text_config.pad_token_id == pad == image + 1
    new = {"model.embed_tokens.weight": model.get_input_embeddings().weight, "lm_head.weight": model.lm_head.weight}
    for name, weight in new.items():
        assert len(weight) % 64 == 0 and torch.equal(weight[:VOCABULARY], tensors[name])
        torch.testing.assert_close(weight[VOCABULARY:], tensors[name].mean(0).expand(len(weight) - VOCABULARY, -1))


def test_prompt_is_vicunas_with_the_image_padded_to_a_square(converted):
    from convert.folders import sentencepiece_model

    model, processor = load_base(converted[1])
    parts = [{"type": "image"}, {"type": "text", "text": "is the red in?"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "the ab"}]
    text = processor.apply_chat_template([*messages, {"role": "user", "content": "b"}], add_generation_prompt=True)
    system, _, turns = text.partition("USER: ")
    assert system.startswith("A chat between a curious user and an artificial") and system.endswith("questions. ")
    assert turns == "<image>\nis the red in? ASSISTANT: the ab</s>USER: b ASSISTANT:"
    batch = processor(text=text, images=[Image.new("RGB", (40, 20), (255, 0, 0))], return_tensors="pt")
    tokens = processor.tokenizer.convert_tokens_to_ids("<image>")
    ids = batch["input_ids"][0].tolist()
    assert ids[0] == 1 and ids.count(tokens) == 16
    start, end = ids.index(tokens), len(ids) - ids[::-1].index(tokens)
    model_file = sentencepiece_model(prefix=True)
    head, tail = text.split("<image>")
    answered, _, question = tail.partition("</s>")
    assert ids[1:start] == spm_encode(model_file, head)
    assert ids[end:] == [*spm_encode(model_file, answered), 2, *spm_encode(model_file, question)]
    corners = batch["pixel_values"][0, :, [0, -1], [0, -1]]  # the mean colour, which is zero after normalisation
    assert corners.abs().max() < 0.02 and batch["pixel_values"][0, 0, 12, 12] == pytest.approx((1 - 0.4) / 0.2)
    assert model.generate(**batch, max_new_tokens=2, do_sample=False).shape[1] == len(ids) + 2


# -- the authors' pruned checkpoints ----------------------------------------------------------------------------------
@pytest.fixture
def pruned(tmp_path):
    write_original(tmp_path / "original", tmp_path / "clip", **PRUNED)
    return tmp_path


def mask(seed=0):
    return np.random.default_rng(seed).integers(0, 2, (LAYERS, HEADS))


def test_plan_of_a_pruned_checkpoint(pruned, capsys):
    from yopo_train.cli import main

    np.save(pruned / "mask.npy", mask())
    arguments = ["--head_mask", str(pruned / "mask.npy")]
    assert main(["convert", "llava", str(pruned / "original"), str(pruned / "new"), *arguments]) == 0
    assert "renormalises" in capsys.readouterr().out
    plan = PruningPlan.load(pruned / "new" / "plan.safetensors")
    assert (plan.semantics, plan.depth, plan.radius, plan.base_model) == ("official", 2, 2, "llava-v1.5-tiny")
    expected = torch.from_numpy(mask()).bool()
    assert torch.equal(plan.heads[:2], expected[:2]) and not plan.heads[2:].any()
    kept = torch.arange(WIDTH) < WIDTH // 4
    assert torch.equal(plan.channels[:2], kept.expand(2, -1)) and not plan.channels[2:].any()
    assert plan.made_by["sprompt_len"] == 35
    model, _ = load_base(pruned / "new")
    prune(model, plan, backend="reference")


def test_mask_saved_by_torch_is_the_same_plan(pruned):
    np.save(pruned / "mask.npy", mask().astype(np.float64))
    torch.save(torch.from_numpy(mask()), pruned / "mask.pth")
    for name in ("npy", "pth"):
        convert_llava(pruned / "original", pruned / name, head_mask=pruned / f"mask.{name}")
    first, second = (PruningPlan.load(pruned / name / "plan.safetensors") for name in ("npy", "pth"))
    assert first.id == second.id


def test_pruned_checkpoint_without_a_mask_says_that_nothing_is_pruned(pruned):
    notes = convert_llava(pruned / "original", pruned / "new")
    assert "--head_mask" in notes[0] and not (pruned / "new" / "plan.safetensors").exists()


@pytest.mark.parametrize("window, radius", [(1, 0), (3, 1), (4, 1), (7, 3)])
def test_window_is_read_as_the_authors_code_does(window, radius, tmp_path):
    write_original(tmp_path / "original", tmp_path / "clip", **{**PRUNED, "attncut_w": window})
    np.save(tmp_path / "mask.npy", mask())
    convert_llava(tmp_path / "original", tmp_path / "new", head_mask=tmp_path / "mask.npy")
    assert PruningPlan.load(tmp_path / "new" / "plan.safetensors").radius == radius


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layercut_num": 9}, "layercut_num is 9"),
        ({"layercut_num": None}, "layercut_num is missing"),
        ({"attncut_w": 0}, "attncut_w is 0"),
        ({"mlpcut_ratio": "2"}, "mlpcut_ratio is '2'"),
        ({"mm_projector_type": "linear"}, "mm_projector_type is 'linear'"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end is True"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio is 'anyres'"),
        ({"architectures": ["LlavaMistralForCausalLM"]}, "LlavaMistralForCausalLM"),
        ({"mm_vision_tower": "./nowhere"}, "--vision_tower"),
        ({"num_hidden_layers": 4}, "9 tensors are missing"),
        ({"hidden_size": 64}, "config.json says"),
    ],
)
def test_bad_configurations_are_one_error_and_leave_nothing(changes, words, tmp_path):
    write_original(tmp_path / "original", tmp_path / "clip", **{**PRUNED, **changes})
    np.save(tmp_path / "mask.npy", mask())
    with pytest.raises(UserError) as error:
        convert_llava(tmp_path / "original", tmp_path / "new", head_mask=tmp_path / "mask.npy")
    assert words in str(error.value) and "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip", "mask.npy", "original"]


@pytest.mark.parametrize("wrong", ["shape", "values", "pickle", "missing", "not pruned"])
def test_bad_masks_are_one_error_and_leave_nothing(wrong, tmp_path):
    write_original(tmp_path / "original", tmp_path / "clip", **({} if wrong == "not pruned" else PRUNED))
    path, values = tmp_path / "mask.npy", mask()
    values = {"shape": values.T, "values": values * 2, "pickle": np.array([object()])}.get(wrong, values)
    if wrong != "missing":
        np.save(path, values, allow_pickle=wrong == "pickle")
    with pytest.raises(UserError, match="mask"):
        convert_llava(tmp_path / "original", tmp_path / "new", head_mask=path)
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".*"))


def test_pickles_run_no_code(tmp_path):
    write_original(tmp_path / "original", tmp_path / "clip", pickled=True)
    marker = tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return marker.touch, ()

    torch.save({"model.norm.weight": Trap()}, tmp_path / "original" / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(UserError, match="00001-of-00002"):
        convert_llava(tmp_path / "original", tmp_path / "new")
    assert not marker.exists() and not (tmp_path / "new").exists()
