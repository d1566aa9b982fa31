"""Prompts and settings of both protocols, literally (BENCHMARKS.md)."""

import json

import pytest

from yopo_train.errors import UserError
from yopo_train.evaluation.benchmarks import BENCHMARKS, get_benchmark
from yopo_train.evaluation.benchmarks.item import VICUNA_SYSTEM
from yopo_train.evaluation.benchmarks.records import Record

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
OPTIONS = {"A": "red", "B": "green", "C": "blue", "D": "gray"}


class AnyPicture:
    def open(self):
        raise AssertionError("a prompt needs no pixels")


def prompts(name, **values):
    """(llava, lmms_eval) of a row."""
    record = Record(values, "a row", AnyPicture())
    return tuple(get_benchmark(name).prompt(record, protocol) for protocol in ("llava", "lmms_eval"))


@pytest.mark.parametrize(
    ("name", "values", "llava", "lmms_eval"),
    [
        ("gqa", {"question": "Is it red?"}, f"Is it red?\n{SHORT}", f"Is it red?\n{SHORT}"),
        ("vqav2", {"question": "Is it red?"}, f"Is it red?\n{SHORT}", f"Is it red?\n{SHORT}"),
        ("pope", {"question": " Is it red?\n"}, f"Is it red?\n{SHORT}", f"Is it red?\n{SHORT}"),
        (
            "textvqa",  # the rest becomes lower case; OCR tokens in LLaVA's alone
            {"question": "what does the USA sign say?", "ocr_tokens": ["STOP", "a, b", "7"]},
            f"What does the usa sign say?\nReference OCR token: STOP, a, b, 7\n{SHORT}",
            f"What does the usa sign say?\n{SHORT}",
        ),
        (
            "textvqa",
            {"question": "what?", "ocr_tokens": []},
            f"What?\nReference OCR token: \n{SHORT}",
            f"What?\n{SHORT}",
        ),
        ("mme", {"question": "Is it red? Please answer yes or no."}, f"Is it red?\n{SHORT}", f"Is it red?\n{SHORT}"),
        (
            "mme",  # two spaces: lmms-eval leaves one
            {"question": "Is it red?  Please answer yes or no."},
            f"Is it red?\n{SHORT}",
            f"Is it red? \n{SHORT}",
        ),
        (
            "scienceqa",
            {"question": "Which?", "choices": ["red", "green"], "hint": ""},
            f"Which?\nA. red\nB. green\n{LETTER}",
            f"Which?\nA. red\nB. green\n{LETTER}",
        ),
        (
            "scienceqa",
            {"question": "Which?", "choices": ["red", "green", "blue", "gray", "tan"], "hint": "Look."},
            f"Context: Look.\nWhich?\nA. red\nB. green\nC. blue\nD. gray\nE. tan\n{LETTER}",
            f"Context: Look.\nWhich?\nA. red\nB. green\nC. blue\nD. gray\nE. tan\n{LETTER}",
        ),
        (
            "mmbench",
            {"question": "Which?", "hint": "Look.", **OPTIONS},
            f"Look.\nWhich?\nA. red\nB. green\nC. blue\nD. gray\n{LETTER}",
            f"Look. Which? There are several options:\nA. red\nB. green\nC. blue\nD. gray\n\n{LETTER}",
        ),
        (
            "mmbench",  # the hub's missing values
            {"question": "Which?", "hint": "nan", "A": "red", "B": "green", "C": "nan", "D": "nan"},
            f"Which?\nA. red\nB. green\n{LETTER}",
            f"Which? There are several options:\nA. red\nB. green\n\n{LETTER}",
        ),
        (
            "mmbench",  # LLaVA stops at the first missing option, and takes the word None for one
            {"question": "Which?", "hint": None, "A": "red", "B": None, "C": "blue", "D": "gray"},
            f"Which?\nA. red\n{LETTER}",
            f"Which? There are several options:\nA. red\nC. blue\nD. gray\n\n{LETTER}",
        ),
        (
            "mmbench",
            {"question": "Which?", "hint": "None", "A": "red", "B": "green", "C": "none", "D": "gray"},
            f"Which?\nA. red\nB. green\n{LETTER}",
            f"None Which? There are several options:\nA. red\nB. green\nC. none\nD. gray\n\n{LETTER}",
        ),
    ],
)
def test_prompts(name, values, llava, lmms_eval):
    assert prompts(name, **values) == (llava, lmms_eval)


def test_longest_answers():
    tokens = {name: [b.settings(p).max_new_tokens for p in ("llava", "lmms_eval")] for name, b in BENCHMARKS.items()}
    assert tokens == {
        "gqa": [128, 16],
        "vqav2": [128, 16],
        "scienceqa": [1024, 16],
        "textvqa": [128, 1024],
        "pope": [128, 128],
        "mme": [128, 16],
        "mmbench": [1024, 1024],
    }


def test_only_llavas_prompt_has_vicunas_system_sentence():
    for benchmark in BENCHMARKS.values():
        assert benchmark.settings("llava").system == VICUNA_SYSTEM
        assert benchmark.settings("lmms_eval").system is None
        assert [benchmark.settings(protocol).letterbox for protocol in ("llava", "lmms_eval")] == [True, False]
    assert VICUNA_SYSTEM == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions."
    )


def test_llavas_file_is_taken_literally(sample):
    """Whatever it says; the other protocol goes by the question."""
    folder = sample("vqav2")
    file = folder / "llava_vqav2_mscoco_test-dev2015.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0]["text"] = f" What  is it? \n{SHORT}"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for protocol in ("llava", "lmms_eval"):
        assert get_benchmark("vqav2").items(file, protocol)[0].prompt == f" What  is it? \n{SHORT}"


def test_unknown_names():
    with pytest.raises(UserError, match=r"benchmark: found 'vizwiz', expected one of: gqa, vqav2, scienceqa"):
        get_benchmark("vizwiz")
    for call in (get_benchmark("gqa").items, lambda protocol: get_benchmark("gqa").settings(protocol)):
        with pytest.raises(UserError, match=r"protocol: found 'mine', expected one of: llava, lmms_eval"):
            call(protocol="mine")
