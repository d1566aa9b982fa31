"""Batches: what is trained, what is padded, what is kept beside it."""

import re

import pytest
import torch
from PIL import Image
from question_sets import make_row
from torch.nn.utils.rnn import pad_sequence

from yopo_train.data.collate import EvalCollator, TokenCounter, TrainCollator
from yopo_train.data.conversation import Chat
from yopo_train.errors import UserError
from yopo_train.models.tiny import tiny_processor


def row(index: int, images: int = 1, turns: int = 1, size: tuple[int, int] = (96, 96)) -> dict:
    """A row as `Rows` gives it."""
    pictures = [Image.new("RGB", size, (index, i, 0)) for i in range(images)]
    return make_row(index, images, turns) | {"images": pictures}


def spread(index: int) -> dict:
    """Images before, between and behind text, in several turns; two of them with nothing between them."""
    asked = ["<image>\nSee <image> and\n<image><image>", "So?", "<image>", "And <image>?"]
    answers = ["first", "second: ü, 图", "third", "4th"]
    messages = []
    for question, answer in zip(asked, answers, strict=True):
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    sizes = [(96, 96), (40, 120), (120, 40), (96, 96), (64, 64), (200, 100)]
    return {
        "id": f"spread-{index}",
        "kind": "spread",
        "messages": messages,
        "images": [Image.new("RGB", size) for size in sizes],
    }


ROWS = [row(1), row(2, images=0), spread(3), row(4, images=2, turns=3), row(5, turns=2, size=(50, 130))]


def answers_of(sample: dict) -> list[str]:
    return [message["content"] for message in sample["messages"] if message["role"] == "assistant"]


def decode(processor, ids) -> str:
    """Text without the runs of image tokens."""
    text = processor.tokenizer.decode(ids, skip_special_tokens=False)
    return re.sub(f"(?:{re.escape(processor.image_token)})+", "<image>", text)


def test_only_answers_and_their_ends_are_trained(any_processor):
    batch = TrainCollator(any_processor)(ROWS)
    end = any_processor.tokenizer.eos_token
    for sample, ids, labels in zip(ROWS, batch["input_ids"], batch["labels"], strict=True):
        trained = labels != -100
        assert torch.equal(labels[trained], ids[trained])
        assert not (ids[trained] == any_processor.image_token_id).any()
        found = decode(any_processor, ids[trained]).split(end)
        assert [answer.strip() for answer in found] == [*answers_of(sample), ""]
        # as many runs of trained tokens as answers: nothing between them
        assert (trained.int().diff(prepend=torch.zeros(1, dtype=torch.int)) == 1).sum() == len(answers_of(sample))


def test_padding_is_right_in_training_and_left_in_evaluation(any_processor):
    train, evaluation = TrainCollator(any_processor)(ROWS), EvalCollator(any_processor)(ROWS)
    assert train["attention_mask"][:, 0].all() and evaluation["attention_mask"][:, -1].all()
    assert not train["attention_mask"].all() and not evaluation["attention_mask"].all()
    assert (train["labels"][train["attention_mask"] == 0] == -100).all()
    assert "labels" not in evaluation


def test_a_prompt_is_the_beginning_of_its_training_sample(any_processor):
    """The model is asked with exactly the tokens that it was trained to continue."""
    train, evaluation = TrainCollator(any_processor)(ROWS), EvalCollator(any_processor)(ROWS)
    for i in range(len(ROWS)):
        prompt = evaluation["input_ids"][i][evaluation["attention_mask"][i].bool()]
        assert torch.equal(prompt, train["input_ids"][i][: len(prompt)])
        after = train["labels"][i][len(prompt) :]
        assert after[0] != -100 and (train["labels"][i] != -100).sum() > 0


def test_images_stand_where_they_were_put(processor):
    batch = EvalCollator(processor)([row(4, images=2), row(2, images=0)])
    text = decode(processor, batch["input_ids"][0])
    assert text.endswith("USER: <image>\n<image>\nQuestion 4 of turn 0? ASSISTANT:")
    assert batch["pixel_values"].shape == (2, 3, 96, 96)
    assert (batch["input_ids"] == processor.image_token_id).sum(dim=1).tolist() == [2 * 144, 0]


def test_a_batch_without_images_has_no_image_inputs(any_processor):
    for collator in (TrainCollator(any_processor), EvalCollator(any_processor)):
        batch = collator([row(1, images=0), row(2, images=0, turns=2)])
        assert not {name for name in batch if "pixel" in name or "grid" in name}
        assert batch["input_ids"].shape == batch["attention_mask"].shape


def test_meta_says_who_was_asked_what(processor):
    batch = EvalCollator(processor)([row(5, images=2, turns=2)])
    expected = {"id": "row-5", "kind": "digit", "question": "Question 5 of turn 1?", "answer": "answer 5 1"}
    assert batch["meta"] == [expected]
    first = EvalCollator(processor)([row(5, images=2)])["meta"][0]
    assert first["question"] == "Question 5 of turn 0?"


def test_tokens_are_counted_without_reading_images(any_processor):
    counter, batch = TokenCounter(any_processor), TrainCollator(any_processor)(ROWS)
    sizes = [[(image.height, image.width) for image in sample["images"]] for sample in ROWS]
    counts = counter.count([(sample["messages"], each) for sample, each in zip(ROWS, sizes, strict=True)])
    visual = batch["input_ids"] == any_processor.image_token_id
    assert counts == list(zip(batch["attention_mask"].sum(dim=1).tolist(), visual.sum(dim=1).tolist(), strict=True))


def test_one_by_one_is_the_same_as_together(processor):
    together = TrainCollator(processor)(ROWS)
    alone = [TrainCollator(processor)([sample]) for sample in ROWS]
    labels = pad_sequence([one["labels"][0] for one in alone], batch_first=True, padding_value=-100)
    assert torch.equal(labels, together["labels"])


def test_bos_stands_once():
    """Also where the template writes it itself."""
    processor = tiny_processor()
    expected = TrainCollator(processor)([row(1)])["input_ids"]
    processor.chat_template = "{{ bos_token }}" + processor.chat_template
    assert torch.equal(TrainCollator(processor)([row(1)])["input_ids"], expected)
    assert (expected == processor.tokenizer.bos_token_id).sum() == 1


def test_a_template_that_ends_no_turn_gets_an_end():
    processor = tiny_processor()
    assert Chat(processor).turn_end == ""
    processor.chat_template = processor.chat_template.replace("</s>", "")
    assert Chat(processor).turn_end == "</s>"


def test_a_prompt_that_writes_the_models_own_image_token(any_processor):
    token = any_processor.image_token
    if token == "<image>":
        pytest.skip("the placeholder itself: counted when the rows are read")
    bad = row(7, images=0)
    bad["messages"][0]["content"] = f"What does {token} mean?"
    with pytest.raises(UserError, match=r"row 'row-7': its prompt holds 1 times .* expected 0"):
        EvalCollator(any_processor)([row(1), bad])


def test_processors_that_cannot_chat_or_pad():
    processor = tiny_processor()
    processor.chat_template = None
    with pytest.raises(UserError, match=r"LlavaProcessor\) has no chat template"):
        EvalCollator(processor)
    processor = tiny_processor()
    processor.tokenizer.pad_token = None
    with pytest.raises(UserError, match="has no padding token"):
        EvalCollator(processor)


def test_a_template_that_rewrites_history_is_refused():
    processor = tiny_processor()
    processor.chat_template = "{{ messages | length }}" + processor.chat_template
    with pytest.raises(UserError, match="changes earlier turns"):
        TrainCollator(processor)([row(1, turns=2)])
