"""Original LLaVA-1.5 checkpoints converted to the llava-hf layout, and the plans of pruned ones."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from convert.folders import sentencepiece_model, spm_encode, write_json
from convert.llava_original import HEADS, IMAGE, LAYERS, PRUNED, VOCABULARY, WIDTH, write_original
from convert.plain_llava import original_logits
from yopo_train.cli import main
from yopo_train.convert import convert_llava
from yopo_train.errors import UserError
from yopo_train.models import load_base
from yopo_train.plan import PruningPlan
from yopo_train.pruning import prune


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


@pytest.fixture(scope="module", params=[None, False], ids=["legacy", "not legacy"])
def converted(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava")
    tensors = write_original(folder / "original", folder / "clip", legacy=request.param)
    assert convert_llava(folder / "original", folder / "new") == []
    return tensors, folder / "new", request.param is None


def test_new_tokens_are_the_mean_of_all_others(converted):
    tensors, folder, _ = converted
    model, processor = load_base(folder)
    image, pad = (processor.tokenizer.convert_tokens_to_ids(token) for token in ("<image>", "<pad>"))
    assert model.config.image_token_id == image and model.config.text_config.pad_token_id == pad == image + 1
    new = {"model.embed_tokens.weight": model.get_input_embeddings().weight, "lm_head.weight": model.lm_head.weight}
    for name, weight in new.items():
        assert len(weight) % 64 == 0 and torch.equal(weight[:VOCABULARY], tensors[name])
        torch.testing.assert_close(weight[VOCABULARY:], tensors[name].mean(0).expand(len(weight) - VOCABULARY, -1))


def test_prompt_is_vicunas_with_the_image_padded_to_a_square(converted):
    _, folder, legacy = converted
    model, processor = load_base(folder)
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
    start_of_text, within = sentencepiece_model(prefix=True), sentencepiece_model(prefix=legacy)
    head, tail = text.split("<image>")
    answered, _, question = tail.partition("</s>")
    assert ids[1:start] == spm_encode(start_of_text, head)
    assert ids[end:] == [*spm_encode(start_of_text, answered), 2, *spm_encode(within, question)]
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
    np.save(pruned / "mask.npy", mask())
    arguments = ["--head_mask", str(pruned / "mask.npy")]
    assert main(["convert", "llava", str(pruned / "original"), str(pruned / "new"), *arguments]) == 0
    assert "renormalises" in capsys.readouterr().out
    plan = PruningPlan.load(pruned / "new" / "plan.safetensors")
    assert (plan.semantics, plan.depth, plan.radius, plan.base_model) == ("official", 2, 2, "llava-v1.5-tiny")
    expected, kept = torch.from_numpy(mask()).bool(), torch.arange(WIDTH) < WIDTH // 4
    assert torch.equal(plan.heads, expected) and torch.equal(plan.channels, kept.expand(LAYERS, -1))
    assert plan.made_by["sprompt_len"] == 35
    compact = PruningPlan.load(pruned / "new" / "plan-compact.safetensors")
    assert (compact.semantics, compact.depth, compact.radius, compact.made_by) == ("compact", 2, 2, plan.made_by)
    assert torch.equal(compact.heads[:2], expected[:2]) and not compact.heads[2:].any()
    assert torch.equal(compact.channels[:2], kept.expand(2, -1)) and not compact.channels[2:].any()


def test_compact_plan_generates_at_once(pruned):
    np.save(pruned / "mask.npy", mask())
    convert_llava(pruned / "original", pruned / "new", head_mask=pruned / "mask.npy")
    model, processor = load_base(pruned / "new")
    batch = processor(
        text="USER: <image>\nthe red? ASSISTANT:", images=[Image.new("RGB", (40, 20))], return_tensors="pt"
    )
    with torch.no_grad():
        dense = model(**batch).logits[:, -1]
        prune(model, PruningPlan.load(pruned / "new" / "plan-compact.safetensors"))
        assert not torch.allclose(model(**batch).logits[:, -1], dense, atol=1e-3)
        assert model.generate(**batch, max_new_tokens=2, do_sample=False).shape[1] > batch["input_ids"].shape[1]


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
        ({"mlpcut_ratio": math.inf}, "mlpcut_ratio is inf"),
        ({"_name_or_path": 5}, "_name_or_path is 5, expected text"),
        ({"vocab_size": "x"}, "vocab_size is 'x', expected a positive integer"),
        ({"mm_vision_select_layer": 4}, "mm_vision_select_layer is 4, expected -4 to 3"),
        ({"mm_vision_tower": 5}, "mm_vision_tower is 5, expected text"),
        ({"mm_projector_type": "linear"}, "mm_projector_type is 'linear'"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end is True"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio is 'anyres'"),
        ({"architectures": ["LlavaMistralForCausalLM"]}, "LlavaMistralForCausalLM"),
        ({"mm_vision_tower": "./nowhere"}, "--vision_tower"),
        ({"num_hidden_layers": 4}, "9 tensors are missing"),
        ({"hidden_size": 64}, "config.json says"),
    ],
)
def test_bad_configurations_are_one_error_and_leave_nothing(changes, words, tmp_path, capsys):
    write_original(tmp_path / "original", tmp_path / "clip", **{**PRUNED, **changes})
    np.save(tmp_path / "mask.npy", mask())
    folders = [str(tmp_path / name) for name in ("original", "new")]
    assert main(["convert", "llava", *folders, "--head_mask", str(tmp_path / "mask.npy")]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and words in error and "\n" not in error
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


@pytest.mark.parametrize("wrong", ["junk", "list", "numbered", "sparse"])
def test_damaged_pickles_are_one_error(wrong, tmp_path):
    write_original(tmp_path / "original", tmp_path / "clip", pickled=True)
    path = tmp_path / "original" / "pytorch_model-00002-of-00002.bin"
    content = {"list": [1], "numbered": {1: torch.ones(1)}, "sparse": {"lm_head.weight": torch.eye(2).to_sparse()}}
    path.write_bytes(b"junk") if wrong == "junk" else torch.save(content[wrong], path)
    with pytest.raises(UserError, match=r"00002-of-00002.bin: (the shard is damaged|holds something else)"):
        convert_llava(tmp_path / "original", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("values", ["x", [0.5], [0.4, 0.5, None]])
def test_tower_with_bad_colors(values, tmp_path):
    write_original(tmp_path / "original", tmp_path / "clip")
    write_json(tmp_path / "clip" / "preprocessor_config.json", {"image_mean": values})
    with pytest.raises(UserError, match=r"image_mean is .*, expected three numbers"):
        convert_llava(tmp_path / "original", tmp_path / "new")


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
