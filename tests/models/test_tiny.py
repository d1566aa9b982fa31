"""The embedded tiny model as a folder: read by the ordinary classes, small, and with the tokens it promises."""

import io
import random
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from yopo_train.data.shapes import KINDS
from yopo_train.data.shapes.build import SceneSource, dialogue_rows, question_rows
from yopo_train.errors import UserError
from yopo_train.models.tiny import SPECIAL_TOKENS, build_tiny, main

VISUAL_TOKENS = 144


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("tiny") / "model"
    main([str(out)])
    return out


@pytest.fixture(scope="module")
def processor(folder):
    return AutoProcessor.from_pretrained(folder)


def picture() -> Image.Image:
    row = next(dialogue_rows(1, "train", SceneSource(), random.Random(0)))
    return Image.open(io.BytesIO(row["images"][0]["bytes"]))


def test_loads_and_generates(folder, processor):
    model, report = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    config = model.config
    assert config.text_config.num_hidden_layers >= 6
    assert config.text_config.num_attention_heads >= 8
    assert config.text_config.vocab_size == len(processor.tokenizer)
    assert config.vision_feature_layer in (-1, config.vision_config.num_hidden_layers)
    inputs = processor(text="USER: <image>\nList all objects. ASSISTANT:", images=picture(), return_tensors="pt")
    assert (inputs["input_ids"] == config.image_token_index).sum() == VISUAL_TOKENS == config.image_seq_length
    assert inputs["pixel_values"].shape == (1, 3, 96, 96)
    assert model.get_image_features(inputs["pixel_values"]).pooler_output[0].shape == (VISUAL_TOKENS, 128)
    assert model.generate(**inputs, max_new_tokens=2).shape[1] > inputs["input_ids"].shape[1]


def test_saved_in_bfloat16_it_fits_git(folder, tmp_path):
    LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(folder).save_pretrained(tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 8e6


def test_processor_class_does_not_depend_on_torchvision(folder):
    """The folder names the plain class; transformers picks the backend that the machine has."""
    assert '"image_processor_type": "CLIPImageProcessor"' in (folder / "processor_config.json").read_text()


def test_chat_template(processor):
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is there a red 7?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "no"}]},
        {"role": "user", "content": [{"type": "text", "text": "Which digit is shown?"}]},
    ]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    turns = ["USER: <image>\nIs there a red 7? ASSISTANT: no</s>", "USER: Which digit is shown? ASSISTANT:"]
    assert text == "".join(turns)
    assert processor.apply_chat_template(messages[:2]) == turns[0]


def test_words_are_single_tokens_and_text_comes_back(processor):
    tokenizer = processor.tokenizer
    assert [tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3]
    for row in question_rows(200, "test", SceneSource(), random.Random(0)):
        question, answer = (message["content"] for message in row["messages"])
        assert row["kind"] in KINDS
        assert len(tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]) == 1
        for text in (question.removeprefix("<image>\n"), answer):
            ids = tokenizer(f" {text}")["input_ids"]
            assert ids[0] == tokenizer.bos_token_id
            words = text.replace("?", " ?").split()
            assert len(ids) <= 1 + len(words) + words.count("a")  # "a" is the one word of two tokens
            assert tokenizer.decode(ids, skip_special_tokens=True) == f" {text}"
    anything = "Grüße, 漢字 and 123 <b>"
    assert tokenizer.decode(tokenizer(anything)["input_ids"], skip_special_tokens=True) == anything


def test_same_seed_same_weights(folder, tmp_path):
    build_tiny(tmp_path / "same")
    build_tiny(tmp_path / "other", seed=1)
    weights = [(path / "model.safetensors").read_bytes() for path in (folder, tmp_path / "same", tmp_path / "other")]
    assert weights[0] == weights[1] != weights[2]


def test_a_full_folder_is_left_alone(folder, capsys):
    before = (folder / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(UserError, match="not empty"):
        build_tiny(folder)
    with pytest.raises(SystemExit) as stop:
        main([str(folder)])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {folder}")
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
