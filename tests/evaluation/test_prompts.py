"""Benchmark prompts: their system text, and how long they are."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from families import qwen2_vl
from PIL import Image
from toy_benchmark import ToyBenchmark, ToyItem

from yopo_train.data.images import letterboxed
from yopo_train.evaluation.benchmarks import get_benchmark
from yopo_train.evaluation.benchmarks.pictures import FilePicture
from yopo_train.evaluation.prompts import ItemCollator, prompt_lengths
from yopo_train.evaluation.runner import evaluate

SAMPLES = Path(__file__).parents[2] / "data" / "benchmarks"
VICUNA = (
    "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['role'].upper() + ': '}}{% endif %}"
    "{% for c in m['content'] if c['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] + ' '}}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""What llava-1.5-7b-hf's template does with prompts."""


def test_the_system_text_goes_where_vicuna_has_it_and_nowhere_else(processor, model):
    item = ToyItem(1)
    assert ItemCollator(processor, "Be good.").system is None
    assert ItemCollator(processor, "Be good.").text(item) == ItemCollator(processor).text(item)
    vicuna = copy.deepcopy(processor)
    vicuna.chat_template = VICUNA
    text = ItemCollator(vicuna, "Be good.").text(item)
    assert text == "Be good. USER: <image>\nQuestion 1? word ASSISTANT:"
    asked = evaluate(model, vicuna, ToyBenchmark("Be good."), [item])
    assert asked.generation["system"] == "Be good."


def test_llava_s_border_makes_images_square_where_they_would_be_cut(processor, model, tmp_path):
    """`expand2square`, in the colour of the mean. Other conversations, tiles and borders are left alone."""
    vicuna = copy.deepcopy(processor)
    vicuna.chat_template = VICUNA
    vicuna.image_processor.image_mean = [0.2, 0.4, 0.6]
    collate = ItemCollator(vicuna, None, letterbox=True)
    assert collate.border == (51, 102, 153) and collate.system is None
    for wide in (True, False):
        image = Image.new("RGB", (100, 61) if wide else (61, 100), "white")
        found = np.asarray(letterboxed(image, collate.border))
        found = found if wide else found.transpose(1, 0, 2)
        assert found.shape == (100, 100, 3) and (found[19:80] == 255).all()
        assert (np.concatenate([found[:19], found[80:]]) == collate.border).all()
    item = get_benchmark("gqa").items(SAMPLES / "gqa")[0]
    item.images()[0].crop((0, 10, 96, 60)).save(tmp_path / "wide.png")
    item = replace(item, pictures=(FilePicture(str(tmp_path / "wide.png"), "here"),))
    expected = vicuna.image_processor(letterboxed(item.images()[0], collate.border), return_tensors="pt")
    assert collate([item])["pixel_values"].equal(expected["pixel_values"])
    assert not ItemCollator(vicuna)([item])["pixel_values"].equal(expected["pixel_values"])
    for protocol in ("llava", "lmms_eval"):
        asked = evaluate(model, vicuna, "gqa", [item], protocol=protocol, max_new_tokens=1)
        assert asked.generation["letterbox"] == (protocol == "llava")

    assert ItemCollator(processor, None, letterbox=True).border is None, "no Vicuna"
    for setting in ({"do_center_crop": False}, {"do_pad": True}, {"image_grid_pinpoints": [[96, 192]]}):
        other = copy.deepcopy(vicuna)
        for name, value in setting.items():
            setattr(other.image_processor, name, value)
        assert ItemCollator(other, None, letterbox=True).border is None


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_lengths_are_those_of_the_prompts(family, processor):
    """Also where larger images have more tokens."""
    processor = processor if family == "llava" else qwen2_vl.toy_processor()
    items, collate = [ToyItem(number, side=56 + 28 * number) for number in range(6)], ItemCollator(processor)
    expected = [int(collate([item])["attention_mask"].sum()) for item in items]
    found = prompt_lengths(items, [collate.text(item) for item in items], processor)
    assert len({have - want for have, want in zip(found, expected, strict=True)}) == 1, "but for special tokens"
    assert len(set(found)) > 4


def test_real_items_are_sorted_where_sizes_matter():
    """Sizes come from the files' headers, and are those of the images."""
    items = get_benchmark("mmbench").items(SAMPLES / "mmbench") + get_benchmark("pope").items(SAMPLES / "pope")
    assert all(item.image_sizes() == [image.size for image in item.images()] for item in items)
    processor = qwen2_vl.toy_processor()
    collate = ItemCollator(processor)
    found = prompt_lengths(items, [collate.text(item) for item in items], processor)
    assert found == collate(items)["attention_mask"].sum(dim=1).tolist()
