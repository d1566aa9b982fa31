"""Questions about a scene, with their answers.

Each kind is one function that lists every question of that kind which the scene answers without doubt;
`ask` picks one. Answers are kept even by `Balance`, so that nothing is won by guessing the usual answer.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise, permutations

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
    """Digit and letter, each behind its word, or None where there is none."""
    read = [f"{thing.word} {thing.form}" for thing in _by_word(scene) if thing.word != thing.form]
    return Question("list", "What is shown?", ", ".join(read)) if read else None


def compare_across(scene: Scene) -> Question | None:
    """Every two things that the lists name one after the other, and which way the first is from the second."""
    return _compared(scene, "List all objects left or right.", _across)


def compare_down(scene: Scene) -> Question | None:
    """As `compare_across`, from top to bottom."""
    return _compared(scene, "List all objects above or below.", _down)


COMPARISONS = (compare_across, compare_down)
LISTS_BY_LOOKS = (list_colours, list_places)


def _compared(scene: Scene, text: str, side: Callable[[Thing, Thing], str | None]) -> Question | None:
    sides = ((a, b, side(a, b)) for a, b in pairwise(_by_word(scene)))
    named = [f"{a.word} {b.word} {where}" for a, b, where in sides if where is not None]
    return Question("list", text, ", ".join(named)) if named else None


def _across(one: Thing, other: Thing) -> str | None:
    """On which side of `other` `one` is, or None where it is neither."""
    return None if one.column == other.column else "left" if one.column < other.column else "right"


def _down(one: Thing, other: Thing) -> str | None:
    return None if one.row == other.row else "above" if one.row < other.row else "below"


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
    for one, other in permutations(scene.things, 2):
        for side, asked in ((_across, "left or right of"), (_down, "above or below")):
            where = side(one, other)
            if where is not None:
                questions.append(Question("relation", f"Is the {one.word} {asked} the {other.word}?", where))
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
