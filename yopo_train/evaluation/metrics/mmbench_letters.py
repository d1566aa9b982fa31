"""Which option an answer to MMBench means, without asking a language model."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

_FAILURE = "Failed to obtain answer via API"

# -- VLMEvalKit, exact matching ------------------------------------------------------------------------------------
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_ANSWER_IS = re.compile(r"answer\s+is\s+\**([ABCD])", re.IGNORECASE)  # reads B in "the answer is blue", as there
_LAST_WORDS = 4


def vlmevalkit_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The letter by `can_infer` of VLMEvalKit; ``Z`` for a refusal, None for no letter.

    Parameters
    ----------
    text : str
        The answer.
    options : Mapping
        Letter -> text of the options that the question has.
    """
    if _FAILURE not in text:
        if any(refusal in text for refusal in _REFUSALS):
            return "Z"
        words = text.translate(_MARKS).split()
        named = [letter for letter in options if letter in words]
        if len(named) == 1 and words.index(named[0]) >= len(words) - _LAST_WORDS:
            return named[0]
        if not named and "Z" in words:
            return "Z"
        found = _ANSWER_IS.search(text)
        if found and found[1].upper() in options:
            return found[1].upper()
    too_long = len(text.lower()) > 2 * sum(len(option) for option in options.values())
    return None if too_long else _only_option_in(text, options)


# -- lmms-eval, mmbench_en_dev_static ------------------------------------------------------------------------------
_CANDIDATES = "ABCDE"  # whatever options the question has
_DECORATIONS = "{}. {}, {}: {}) {}). ({}) ({}). :{} :{}, :{}. :{}) :{})."
_QUANTIFIER_LENGTH = 3  # "A" in a longer text may be the article

_PRIORITIES = {"start": 10, "end": 9, "phrase": 7, "({})": 6, "{}.": 5, "{}:": 4, "{})": 3, "{} ": 2, "{}": 0}
_NOUNS = ("answer", "correct answer", "best answer", "correct option", "best option", "choice", "correct choice")
_PHRASES = (
    *(f"{article}{noun} is" for noun in _NOUNS for article in ("", "the ")),
    *("i choose", "i select", "i pick", "my answer is", "my choice is"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)


def lmms_eval_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The letter by the static task: what :func:`prefetched_letter` finds, else :func:`extracted_letter`.

    An option that the question lacks has the text ``nan`` in its data set, which takes part in the comparison of texts:
    ``finance`` is read as option D of a question that has three.
    """
    as_stored = {letter: options.get(letter, "nan") for letter in "ABCD"}
    return prefetched_letter(text, as_stored) or extracted_letter(text, list(options)) or None


def prefetched_letter(text: str, options: Mapping[str, str]) -> str | None:
    """A bare or decorated letter, else the only option whose text the answer contains."""
    return named_letter(text) or _only_option_in(text, options)


def named_letter(text: str) -> str | None:
    """The only letter from A to E that is a word of its own, bare or decorated."""
    if _FAILURE in text:
        return None
    words = text.split()
    for decoration in ("{}", *_DECORATIONS.split()):
        named = [letter for letter in _CANDIDATES if decoration.format(letter) in words]
        unsure = decoration == "{}" and "A" in words and len(words) > _QUANTIFIER_LENGTH
        if len(named) == 1 and not unsure:
            return named[0]
    return None


def extracted_letter(text: str, letters: Collection[str]) -> str:
    """The letter that lmms-eval's `extract_mcq_answer` prefers, or "": by the kind of mention, then the later one.

    Capital letters inside words count in the end: ``Dear`` is read as D.
    """
    text = text.strip()
    for mark in ",.!?;:'\"":
        text = text.strip(mark)
    bare = text.strip()
    text = f" {text} "
    found = []
    for letter in letters:
        forms = ("({})", "{}.", "{}:", "{})", "{} ")
        places = [(form, text.rfind(form.format(letter))) for form in forms]
        starts = (text.lower().find(phrase) + len(phrase) for phrase in _PHRASES if phrase in text.lower())
        places += [("phrase", text.find(letter, start)) for start in starts]
        if bare.startswith(letter) and not bare[1:2].isalpha():
            places.append(("start", 0))
        if bare.endswith(letter) and not bare[:-1][-1:].isalpha():
            places.append(("end", len(text) - 1))
        found += [(_PRIORITIES[form], place, letter) for form, place in places if place >= 0]
    if not found:
        found = [(_PRIORITIES["{}"], text.rfind(letter), letter) for letter in letters if letter in text]
    return max(found, default=(0, 0, ""))[2]


# -- both ----------------------------------------------------------------------------------------------------------
def _only_option_in(text: str, options: Mapping[str, str]) -> str | None:
    """The only option whose text the answer contains, case ignored."""
    named = [letter for letter, option in options.items() if option.lower() in text.lower()]
    return named[0] if len(named) == 1 else None
