"""Answers in batches."""

import warnings

import pytest
import torch

from yopo_train.data.collate import EvalCollator, TrainCollator
from yopo_train.evaluation.generation import generate_answers


def test_left_padding_changes_no_answer(model, processor, samples):
    """Prompts of different lengths, with zero, one and two images."""
    collate = EvalCollator(processor)
    alone = [generate_answers(model, processor, collate([row]), 8)[0] for row in samples]
    together = generate_answers(model, processor, collate(samples), 8)
    assert together == alone
    assert len(set(alone)) > 8, "the model answers everything alike: the test would see nothing"


def test_only_the_answer_is_given(model, processor, samples, monkeypatch):
    """New tokens up to the end of the turn, without special tokens."""
    tokenizer, batch, seen = processor.tokenizer, EvalCollator(processor)(samples[:2]), {}
    red = tokenizer(" red", add_special_tokens=False).input_ids
    new = torch.tensor([[*red, tokenizer.eos_token_id, tokenizer.pad_token_id]] * 2)

    def generate(**kwargs):
        seen.update(kwargs)
        return torch.cat([batch["input_ids"], new], dim=1)

    monkeypatch.setattr(model, "generate", generate)
    assert generate_answers(model, processor, batch, 8) == ["red", "red"]
    assert "meta" not in seen and "pixel_values" in seen and seen["do_sample"] is False


def test_right_padding_is_refused(model, processor, samples):
    with pytest.raises(ValueError, match="left padded"):
        generate_answers(model, processor, TrainCollator(processor)(samples), 4)


def test_generation_is_quiet(model, processor, samples):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generate_answers(model, processor, EvalCollator(processor)(samples[:3]), 2)
