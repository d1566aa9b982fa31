"""How the references clean answers before they compare them: VQA's normalisations and reasoning tags.

Written from the description of what the reference code does, see `vqaEval.py` of GT-Vision-Lab/VQA (2021),
`vqav2/utils.py` of lmms-eval and `m4c_evaluator.py` of LLaVA.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

COMMA_MMF = r"\d,+\d"
"""Commas between digits, the rule of lmms-eval and LLaVA (from the MMF library): ``1,,000`` becomes ``1000``."""
COMMA_OFFICIAL = r"\d,\d"
"""One comma between digits, the rule of VQA's own script: ``1,,000`` becomes ``1 000``."""

REASONING_TAGS = (("<think>", "</think>"), ("<analysis>", "</analysis>"))
"""What the command line of lmms-eval removes unless told otherwise."""

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS_REMOVED = 32  # the references pass the flag re.UNICODE, which is 32, where re.sub expects a count
_ARTICLES = {"a", "an", "the"}
_COUNTED = "zero one two three four five six seven eight nine ten"
_NUMBERS = {word: str(number) for number, word in enumerate(_COUNTED.split())}
_NUMBERS["none"] = "0"

# Words that are written without their apostrophes. Targets with a capital (I'm, I've, I'd've) are left out, because
# they are looked up after lower-casing and can never match. Not a pattern: its, lets, shes, id, ill ... are absent.
_APOSTROPHES = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't
    it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't
    somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's
    they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's
    where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
"""
_WOULD_HAVE = "he it she somebody someone something there they we who you"
_NOT_HAVE = "could had might should would"


def _contractions() -> dict[str, str]:
    """The 120 entries of the references' table, but for four that can never match and two that change nothing."""
    table = {word.replace("'", ""): word for word in _APOSTROPHES.split()}
    for word in [f"{who}'d" for who in _WOULD_HAVE.split()] + [f"{verb}n't" for verb in _NOT_HAVE.split()]:
        table[word.replace("'", "") + "'ve"] = table[word + "ve"] = word + "'ve"
    for odd, whole in (
        ("yall'll y'allll", "y'all'll"),
        ("yall'd've y'alld've y'all'dve", "y'all'd've"),
        ("ow's'at 'ows'at 'ow'sat", "'ow's'at"),
        ("somebody'd", "somebodyd"),  # the wrong way round, in all references
    ):
        table |= dict.fromkeys(odd.split(), whole)
    return table


_CONTRACTIONS = _contractions()


def one_line(text: str) -> str:
    """Line ends and tabs become spaces; no space around."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def without_punctuation(text: str, comma: str) -> str:
    """The references' removal of punctuation, oddities included.

    Each of 21 characters is deleted if the *unchanged* text has it beside a space anywhere, or has a comma between
    digits anywhere (`comma`); else it becomes a space. Then the first 32 periods not followed by a digit are deleted.
    """
    joins = re.search(comma, text) is not None
    result = text
    for mark in _PUNCTUATION:
        deleted = joins or f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if deleted else " ")
    return _PERIOD.sub("", result, count=_PERIODS_REMOVED)


def plain_words(text: str) -> str:
    """Lower case, number words as digits, no articles, contractions with their apostrophes, single spaces."""
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


@lru_cache(maxsize=200_000)  # people repeat themselves: VQAv2 has two million answers
def vqa_answer(text: str, comma: str = COMMA_MMF) -> str:
    """An answer as lmms-eval normalises it for VQAv2; VQA's own script does the same with `COMMA_OFFICIAL`."""
    return plain_words(without_punctuation(one_line(text), comma))


@lru_cache(maxsize=200_000)
def evalai_answer(text: str) -> str:
    """An answer as the EvalAI processor normalises it: TextVQA in both protocols, LLaVA's submission of VQAv2.

    Differs from :func:`vqa_answer` in what comes first: ``,`` and ``?`` vanish (``red,white`` becomes ``redwhite``),
    and ``'s`` is cut off (``man's`` becomes ``man 's``).
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return vqa_answer(text)


def without_reasoning(text: str, tags: Iterable[tuple[str, str]] = REASONING_TAGS) -> str:
    """Blocks between tags are removed; of a text with closing tags only, what follows the last one stays.

    Case matters, and an opening tag that is never closed stays. What lmms-eval's command line does by default.
    """
    for start, end in tags:
        while (opening := text.find(start)) >= 0 and (closing := text.find(end, opening)) >= 0:
            text = text[:opening] + text[closing + len(end) :]
        if start not in text:
            text = text.rpartition(end)[2]
    return text.strip()
