"""Questions about a scene, with their answers.

Each kind is one function that lists every question of that kind which the scene answers without doubt;
`ask` picks one. Answers are kept even by `Balance`, so that nothing is won by guessing the usual answer.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from yopo_train.data.shapes.scene import COLOURS, GRID, SHAPES, Scene, Thing

MAX_COUNT = 4
PLACES = ("northwest", "north", "northeast", "west", "centre", "east", "southwest", "south", "southeast")
"""Names of the 3 x 3 cells, row by row."""
WORDS = (*SHAPES, "digit", "letter")
"""What a question calls a thing, in the order in which the lists name them."""


@dataclass(frozen=True)
class Question:
    """One question of `kind`, as a user would type it, and its only right answer."""

    kind: str
    text: str
    answer: str


@dataclass
class Balance:
    """How often each answer of a kind was used so far."""

    used: Counter = field(default_factory=Counter)

    def pick(self, questions: list[Question], rng: random.Random) -> Question:
        """The answer used least so far, then any question that has it."""
        rarest = min(self.used[q.kind, q.answer] for q in questions)
        answers = sorted({q.answer for q in questions if self.used[q.kind, q.answer] == rarest})
        answer = rng.choice(answers)
        question = rng.choice([q for q in questions if q.answer == answer])
        self.used[question.kind, answer] += 1
        return question


def ask(scene: Scene, kind: str, balance: Balance, rng: random.Random) -> Question | None:
    """A question of `kind` about `scene`, or None where the scene has none."""
    questions = _ASK[kind](scene)
    return balance.pick(questions, rng) if questions else None


def list_things(scene: Scene) -> Question:
    """Every thing behind its place, row by row: it teaches a model to see, as it says where to look."""
    things = (f"{_place(thing)} {thing.name}" for thing in scene.things)
    return Question("list", "List all objects.", ", ".join(things))


def list_colours(scene: Scene) -> Question:
    """Every thing's colour behind its word: to find by looks. The word that asks stands right before the answer."""
    return Question("list", "List all colours.", ", ".join(f"{t.word} {t.colour}" for t in _by_word(scene)))


def list_places(scene: Scene) -> Question:
    """Every thing's place behind its word."""
    return Question("list", "List all places.", ", ".join(f"{t.word} {_place(t)}" for t in _by_word(scene)))


def list_counts(scene: Scene) -> Question:
    """Every colour with its number of things."""
    counted = Counter(thing.colour for thing in scene.things)
    return Question("list", "Count all colours.", ", ".join(f"{c} {counted[c]}" for c in COLOURS if c in counted))


def list_characters(scene: Scene) -> Question | None:
    """The digit or letter behind its word, or None where there is none."""
    read = [f"{thing.word} {thing.form}" for thing in scene.things if thing.word != thing.form]
    return Question("list", "What is shown?", ", ".join(read)) if read else None


def compare_across(scene: Scene) -> Question | None:
    """Every two things that the lists name one after the other, and which way the first is from the second."""
    pairs = [(a, b) for a, b in pairwise(_by_word(scene)) if a.column != b.column]
    named = (f"{a.word} {b.word} {'left' if a.column < b.column else 'right'}" for a, b in pairs)
    return Question("list", "List all objects left or right.", ", ".join(named)) if pairs else None


def compare_down(scene: Scene) -> Question | None:
    """As `compare_across`, from top to bottom."""
    pairs = [(a, b) for a, b in pairwise(_by_word(scene)) if a.row != b.row]
    named = (f"{a.word} {b.word} {'above' if a.row < b.row else 'below'}" for a, b in pairs)
    return Question("list", "List all objects above or below.", ", ".join(named)) if pairs else None


COMPARISONS = (compare_across, compare_down)
LISTS_BY_LOOKS = (list_colours, list_places, list_counts)


def _by_word(scene: Scene) -> list[Thing]:
    return sorted(scene.things, key=lambda thing: WORDS.index(thing.word))


def _place(thing: Thing) -> str:
    return PLACES[GRID * thing.row + thing.column]


def _where(scene: Scene) -> list[Question]:
    """From a thing to its cell. A relation is two of these."""
    return [Question("where", f"Where is the {thing.word}?", _place(thing)) for thing in scene.things]


def _colour(scene: Scene) -> list[Question]:
    return [Question("colour", f"What colour is the {thing.word}?", thing.colour) for thing in scene.things]


def _existence(scene: Scene) -> list[Question]:
    """Colours and words alike, there or not."""
    words, colours = {t.word for t in scene.things}, {t.colour for t in scene.things}
    asked = [(f"Is there a {word}?", word in words) for word in WORDS]
    asked += [(f"Is there a {colour} object?", colour in colours) for colour in COLOURS]
    return [Question("existence", text, "yes" if there else "no") for text, there in asked]


def _count(scene: Scene) -> list[Question]:
    counted = Counter(thing.colour for thing in scene.things)
    return [
        Question("count", f"How many {colour} objects are there?", str(number))
        for colour, number in sorted(counted.items())
        if number <= MAX_COUNT
    ]


def _relation(scene: Scene) -> list[Question]:
    questions = []
    for one in scene.things:
        for other in scene.things:
            if one.column != other.column:
                answer = "left" if one.column < other.column else "right"
                text = f"Is the {one.word} left or right of the {other.word}?"
                questions.append(Question("relation", text, answer))
            if one.row != other.row:
                answer = "above" if one.row < other.row else "below"
                text = f"Is the {one.word} above or below the {other.word}?"
                questions.append(Question("relation", text, answer))
    return questions


def _read(scene: Scene) -> list[Question]:
    glyphs = [thing for thing in scene.things if thing.word != thing.form]
    return [Question("read", f"Which {thing.word} is shown?", thing.form) for thing in glyphs]


_ASK: dict[str, Callable[[Scene], list[Question]]] = {
    "colour": _colour,
    "existence": _existence,
    "count": _count,
    "relation": _relation,
    "read": _read,
    "where": _where,  # taught in dialogues, not asked by the question set
}
KINDS = ("colour", "existence", "count", "relation", "read")
