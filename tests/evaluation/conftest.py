"""A random model that answers, and questions whose right answers are known."""

import pytest
import torch
from PIL import Image
from question_sets import make_row, write_split
from transformers import LlavaForConditionalGeneration

from yopo_train.data.collate import EvalCollator
from yopo_train.evaluation.generation import generate_answers
from yopo_train.models.tiny import tiny_config, tiny_processor

MAX_NEW_TOKENS = 5
WRONG = "surely wrong"


def sample(index: int, images: int = 1) -> dict:
    """A row as `Rows` gives it; the pictures differ."""
    generator = torch.Generator().manual_seed(index)
    pixels = torch.randint(0, 256, (images, 96, 96, 3), dtype=torch.uint8, generator=generator)
    row = make_row(index, images)
    row["messages"][0]["content"] += " word" * (index % 5)  # prompts of different lengths
    return row | {"images": [Image.fromarray(picture.numpy()) for picture in pixels]}


@pytest.fixture(scope="session")
def processor():
    return tiny_processor()


@pytest.fixture(scope="session")
def model(processor):
    """Two layers, weights large enough that images and questions change the answer."""
    config = tiny_config(len(processor.tokenizer))
    config.text_config.num_hidden_layers = config.vision_config.num_hidden_layers = 2
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return model


@pytest.fixture(scope="session")
def samples(model, processor) -> list[dict]:
    """17 questions; the model is right about those of even number."""
    rows = [sample(index, images=index % 3) for index in range(17)]
    for index, row in enumerate(rows):
        answer = generate_answers(model, processor, EvalCollator(processor)([row]), MAX_NEW_TOKENS)[0]
        row["messages"][-1]["content"] = WRONG if index % 2 else answer
    return rows


@pytest.fixture
def folder(tmp_path, samples):
    """The 17 questions on disk, as validation and test, and some to train on."""
    for split in ("train", "validation", "test"):
        write_split(tmp_path / "set", split, samples)
    return tmp_path / "set"
