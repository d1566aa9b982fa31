"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL: where their visual tokens are, and what of them a plan must not touch."""

import pytest
import torch
from families import FAMILIES, qwen3_vl
from families.qwen2_vl import IMAGE, START, VIDEO_PAD
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from toy import random_plan, toy_dims

from yopo_train.calibration import PlanConfig, calibrate, make_plan
from yopo_train.data.collate import EvalCollator, TrainCollator
from yopo_train.errors import UserError
from yopo_train.models import family_of, load_base, model_inputs
from yopo_train.models.prompt import prompt_of, real_tokens, visual_mask
from yopo_train.pruning import dense_mode, prune, unprune

NAMES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
MODELS = {name: FAMILIES[name].toy() for name in NAMES}
PROCESSORS = {name: FAMILIES[name].toy_processor() for name in NAMES}
MIXED = [[3, ("video", 2, 1, 3), 1, ("image", 2, 3), 2], [4], [("image", 4, 1), 1, ("video", 3, 2, 2), 1, "image", 1]]

every_model = pytest.mark.parametrize("name", NAMES)


def inputs_of(name, samples, padding="left"):
    return FAMILIES[name].toy_inputs(MODELS[name], samples, padding)


def grids(name, batch):
    model = MODELS[name]
    return family_of(model).grids(model.config, visual_mask(model, batch), batch)


def text_logits(model, batch, **kwargs):
    with torch.no_grad():
        return model(**batch, **kwargs).logits[real_tokens(batch) & ~visual_mask(model, batch)]


# -- grids ------------------------------------------------------------------------------------------------------------
@every_model
@pytest.mark.parametrize("padding", ["left", "right"])
def test_images_and_videos_of_a_batch_in_their_order(name, padding):
    """A frame of Qwen3-VL is a block of its own; a video of the others is one block."""
    two, three = [(2, 1, 3)], [(3, 2, 2)]
    if name == "qwen3_vl":
        two, three = [(1, 1, 3)] * 2, [(1, 2, 2)] * 3
    expected = [[*two, (1, 2, 3)], [], [(1, 4, 1), *three, (1, 4, 4)]]
    assert grids(name, inputs_of(name, MIXED, padding)) == expected


@every_model
def test_text_in_front_of_each_grid(name):
    """Markers and times of frames are text."""
    prompt = prompt_of(MODELS[name], inputs_of(name, MIXED[:1]))
    before = [3 + 1, 3 + 1 + 1 + 1 + 1] if name != "qwen3_vl" else [6, 10, 13]
    assert prompt.text_before == before
    assert prompt.visual_tokens == 6 + 6


SIZE = st.tuples(st.integers(8, 80), st.integers(8, 80))  # height, width


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(NAMES), st.lists(st.lists(SIZE, max_size=2), min_size=1, max_size=3))
def test_grids_are_what_the_processor_writes(name, samples):
    images = [Image.new("RGB", (width, height)) for sample in samples for height, width in sample]
    texts = ["a " + "<|vision_start|> <|image_pad|> <|vision_end|> b " * len(sample) for sample in samples]
    batch = PROCESSORS[name](images=images or None, text=texts, padding=True, return_tensors="pt")
    found = grids(name, batch)
    assert [len(sample) for sample in found] == [len(sample) for sample in samples]
    tokens = (batch["input_ids"] == IMAGE).sum(1).tolist()
    assert [sum(rows * columns for _, rows, columns in sample) for sample in found] == tokens


@every_model
def test_a_placeholder_of_a_modality_that_is_not_there_is_an_ordinary_token(name):
    model, batch = MODELS[name], inputs_of(name, [[3, "image", 4]])
    assert batch["input_ids"][0, 3] == START
    batch["input_ids"][0, 1] = VIDEO_PAD
    assert visual_mask(model, batch)[0].nonzero().flatten().tolist() == list(range(4, 20))
    batch.pop("pixel_values")
    assert not visual_mask(model, batch).any()


@every_model
def test_tokens_that_fill_no_image(name):
    model, batch = MODELS[name], inputs_of(name, [[3, "image", 2], [1, ("image", 2, 3), 2]])
    prune(model, random_plan(toy_dims(model), 3, 1))
    try:
        with pytest.raises(UserError, match="sample 0 of the batch holds 16 more visual tokens, expected 20"):
            model(**{**batch, "image_grid_thw": torch.tensor([[1, 8, 10], [1, 4, 6]])})
        with pytest.raises(
            UserError, match=r"sample 1 of the batch holds 6 more visual tokens, but the images .* fewer"
        ):
            model(**{**batch, "image_grid_thw": batch["image_grid_thw"][:1]})
        with pytest.raises(UserError, match="image_grid_thw is missing, expected a row"):
            model(**{**batch, "image_grid_thw": None})
    finally:
        unprune(model)


@every_model
def test_an_image_that_text_interrupts(name):
    model, batch = MODELS[name], inputs_of(name, [[3, "image", 4], [2, "image", 5]])
    ids, types = batch["input_ids"], batch["mm_token_type_ids"]
    ids[1, 9:-1], types[1, 9:-1], ids[1, 9], types[1, 9] = ids[1, 8:-2].clone(), types[1, 8:-2].clone(), 5, 0
    prune(model, random_plan(toy_dims(model), 3, 1))
    try:
        with pytest.raises(UserError, match="other tokens stand among the 16 visual tokens of an image of sample 1, "):
            model(**batch)
    finally:
        unprune(model)


# -- positions --------------------------------------------------------------------------------------------------------
@every_model
@pytest.mark.parametrize("planes", [3, 4], ids=["time-row-column", "text first"])
def test_positions_that_the_caller_gives(name, planes):
    """As ``generate`` does, with those of the text in front, or without."""
    model, batch = MODELS[name], inputs_of(name, [[3, ("image", 2, 3), 4], [2, "image", 1]])
    positions, _ = model.model.get_rope_index(**{key: batch.get(key) for key in (
        "input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")})  # fmt: skip
    if planes == 4:
        text = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        positions = torch.cat((text[None], positions))
    plan = random_plan(toy_dims(model), 3, 1, seed=1)
    for backend in ("compact", "reference"):
        prune(model, plan, backend)
        expected = text_logits(model, batch, use_cache=False)
        torch.testing.assert_close(text_logits(model, batch, position_ids=positions, use_cache=False), expected)
        moved = text_logits(model, batch, position_ids=2 * positions, use_cache=False)
        assert (moved - expected).abs().max() > 1e-3
        unprune(model)


@every_model
def test_positions_of_a_second_turn_continue_behind_the_image(name):
    """An image takes as many positions as its longer side, so a token's position is not its place in the sequence."""
    model, batch = MODELS[name], inputs_of(name, [[3, "image", 6], [2, ("image", 2, 3), 1, ("image", 1, 2), 6]])
    prune(model, random_plan(toy_dims(model), 3, 1, seed=1))
    cut = batch["input_ids"].shape[1] - 4
    sizes = ("image_grid_thw", "pixel_values")
    first = {key: value if key in sizes else value[:, :cut] for key, value in batch.items()}
    with torch.no_grad():
        at_once = model(**batch).logits[:, cut:]
        cache = model(**first, use_cache=True).past_key_values
        steps = [(cut, cut + 1), (cut + 1, cut + 4)]
        continued = [
            model(
                input_ids=batch["input_ids"][:, start:end],
                attention_mask=batch["attention_mask"][:, :end],
                past_key_values=cache,
            ).logits
            for start, end in steps
        ]
    unprune(model)
    torch.testing.assert_close(torch.cat(continued, 1), at_once, atol=1e-4, rtol=0)


@every_model
@pytest.mark.parametrize("radius", [None, 1])
def test_second_turn_with_a_new_image_on_the_same_cache(name, radius):
    turns = [[3, ("image", 2, 3), 4], [2, ("image", 4, 2), 3]]
    model, batch = MODELS[name], inputs_of(name, [turns[0] + turns[1], [1, *turns[0][1:], *turns[1]]])
    batch["position_ids"], _ = model.model.get_rope_index(**{key: batch[key] for key in (
        "input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")})  # fmt: skip
    cut = inputs_of(name, [turns[0]])["input_ids"].shape[1]
    images = batch["pixel_values"].split(batch["image_grid_thw"].prod(1).tolist())

    def turn(columns, number):
        part = {key: batch[key][..., columns] for key in ("input_ids", "mm_token_type_ids", "position_ids")}
        pixels = {"pixel_values": torch.cat(images[number::2]), "image_grid_thw": batch["image_grid_thw"][number::2]}
        return {**part, **pixels, "attention_mask": batch["attention_mask"][:, : columns.stop]}

    prune(model, random_plan(toy_dims(model), 3, radius, seed=1))
    with torch.no_grad():
        at_once = model(**batch, use_cache=False).logits[:, cut:]
        cache = model(**turn(slice(cut), 0), use_cache=True).past_key_values
        continued = model(**turn(slice(cut, batch["input_ids"].shape[1]), 1), past_key_values=cache).logits
    unprune(model)
    torch.testing.assert_close(continued, at_once, atol=1e-4, rtol=0)


# -- DeepStack --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("depth", range(5))
@pytest.mark.parametrize("radius", [None, 1])
def test_tower_features_are_added_while_there_are_visual_tokens(depth, radius):
    """Two layers get them: depths 0, 1 and 2 leave none, none and the first to be read."""
    model, batch = MODELS["qwen3_vl"], inputs_of("qwen3_vl", MIXED)
    plan = random_plan(toy_dims(model), depth, radius, seed=1)
    compact = text_logits(prune(model, plan), batch)
    reference = text_logits(prune(model, plan, "reference"), batch, use_cache=False)
    torch.testing.assert_close(compact, reference, atol=1e-4, rtol=0)
    prune(model, plan)
    read = []
    for number, merger in enumerate(model.model.visual.deepstack_merger_list):
        handle = merger.register_forward_hook(lambda module, args, output: output + 1)
        read.append(bool((text_logits(model, batch) - compact).abs().max() > 1e-3))
        handle.remove()
        assert read[number] == (number < depth - 1)
    unprune(model)


def test_tower_features_reach_a_pruned_model_that_is_switched_off():
    """Then visual tokens are among the text, and stand anywhere."""
    model, batch = MODELS["qwen3_vl"], inputs_of("qwen3_vl", MIXED, "right")
    stock = text_logits(model, batch)
    prune(model, random_plan(toy_dims(model), 1, 0))
    with dense_mode(model):
        torch.testing.assert_close(text_logits(model, batch), stock, atol=1e-4, rtol=0)
    unprune(model)


def test_tower_features_of_an_image_that_the_mask_hides():
    """A placeholder that is padding has features, too, and they must not go to another token."""
    model, batch = MODELS["qwen3_vl"], inputs_of("qwen3_vl", [[3, "image", 2, ("image", 2, 3), 4]])
    prune(model, random_plan(toy_dims(model), 3, 1))
    shown = qwen3_vl.toy_inputs(model, [[3, "image", 2]])
    with torch.no_grad():
        logits = model(**shown).logits[0, -2:]
        cut = shown["input_ids"].shape[1]
        batch["attention_mask"][:, cut:] = 0
        batch["input_ids"][:, :cut], batch["pixel_values"][:64] = shown["input_ids"], shown["pixel_values"]
        positions = torch.arange(batch["input_ids"].shape[1]).expand(3, 1, -1).clone()
        positions[:, :, :cut], _ = model.model.get_rope_index(
            shown["input_ids"], shown["mm_token_type_ids"], shown["image_grid_thw"]
        )
        hidden = model(**batch, position_ids=positions).logits[0, cut - 2 : cut]
    unprune(model)
    torch.testing.assert_close(hidden, logits, atol=1e-4, rtol=0)


# -- what is refused --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl"])
def test_sliding_windows(name):
    model = FAMILIES[name].toy(use_sliding_window=True, sliding_window=8, max_window_layers=2)
    with pytest.raises(UserError, match="sliding-window attention cannot be pruned"):
        prune(model, random_plan(toy_dims(model), 3, 1))


def test_mixture_of_experts():
    config = MODELS["qwen3_vl"].config.__class__()
    config.model_type = "qwen3_vl_moe"
    with pytest.raises(UserError, match=r"model type 'qwen3_vl_moe' is not supported, expected one of: .*qwen3_vl"):
        family_of(config)


# -- from images in a folder's own format to answers ------------------------------------------------------------------
def row(number, *sizes):
    """A question about images of these (width, height) with the answer "yes"."""
    question = {"role": "user", "content": "<image> " * len(sizes) + "a b"}
    images = [Image.effect_noise(size, 80).convert("RGB") for size in sizes]
    messages = [question, {"role": "assistant", "content": "yes"}]
    return {"id": f"row-{number}", "kind": "colour", "images": images, "messages": messages}


ROWS = [row(0, (40, 24)), row(1, (24, 24), (16, 64)), row(2)]


@every_model
def test_batches_carry_what_belongs_to_images(name):
    batch = TrainCollator(PROCESSORS[name])(ROWS)
    assert batch["input_ids"].shape == batch["mm_token_type_ids"].shape == batch["labels"].shape
    assert torch.equal(batch["mm_token_type_ids"] == 1, batch["input_ids"] == IMAGE)
    assert len(batch["image_grid_thw"]) == 3
    answers = [batch["input_ids"][i][batch["labels"][i] != -100].tolist() for i in range(len(ROWS))]
    vocabulary = PROCESSORS[name].tokenizer.get_vocab()
    assert answers == [[vocabulary["yes"], vocabulary["</s>"]]] * 3
    model = MODELS[name]
    prune(model, random_plan(toy_dims(model), 3, 1, seed=1))
    loss = model(**model_inputs(batch), labels=batch["labels"]).loss
    prune(model, random_plan(toy_dims(model), 3, 1, seed=1), "reference")
    expected = model(**model_inputs(batch), labels=batch["labels"], use_cache=False).loss
    unprune(model)
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=0)


@every_model
def test_image_that_the_processor_refuses(name):
    with pytest.raises(UserError, match="refuses one of the rows 'row-0', 'row-7': absolute aspect ratio must be"):
        EvalCollator(PROCESSORS[name])([ROWS[0], row(7, (8, 2000))])


@every_model
def test_from_a_folder_to_answers(name, tmp_path):
    MODELS[name].save_pretrained(tmp_path)
    PROCESSORS[name].save_pretrained(tmp_path)
    model, processor = load_base(tmp_path)
    batch = EvalCollator(processor)(ROWS)
    scores = calibrate(model, [batch])
    assert scores.rho.shape == (2, 4, 4)  # the third row has no image
    plan = make_plan(scores, PlanConfig(preset="paper-25"), prompt_of(model, batch).grids)
    assert not plan.is_dense
    inputs = model_inputs(batch)
    options = {"max_new_tokens": 4, "do_sample": False, "suppress_tokens": [IMAGE, VIDEO_PAD]}
    answers = prune(model, plan).generate(**inputs, **options)
    assert torch.equal(answers, prune(model, plan, "reference").generate(**inputs, **options, use_cache=False))
    processor.batch_decode(answers)
