"""Questions about a scene, with their answers.

Each kind is one function that lists every question of that kind which the scene answers without doubt;
`ask` picks one. Answers are kept even by `Balance`, so that nothing is won by guessing the usual answer.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from yopo_train.data.shapes.glyphs import DIGITS, LETTERS
from yopo_train.data.shapes.scene import COLOURS, FORMS, GRID, SHAPES, Scene, Thing

MAX_COUNT = 4
PLACES = ("northwest", "north", "northeast", "west", "centre", "east", "southwest", "south", "southeast")
"""Names of the 3 x 3 cells, row by row."""
_PLURAL = {"cross": "crosses"}


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
    """Every thing with its place, row by row: together with `ask_place` it teaches a model to see."""
    things = (f"{_place(thing)} {thing.name}" for thing in scene.things)
    return Question("list", "List all objects.", ", ".join(things))


def locate_things(scene: Scene) -> Question:
    """Every thing by its form, then colour, then place: finding by looks, as the list above is looking by place.

    In both, the word that asks stands right before the word that answers; a question asks in two steps.
    """
    things = sorted(scene.things, key=lambda thing: (FORMS.index(thing.form), thing.colour, thing.row, thing.column))
    named = (f"{thing.form} {thing.colour} {_place(thing)}" for thing in things)
    return Question("locate", "Where are all objects?", ", ".join(named))


def ask_place(scene: Scene, balance: Balance, rng: random.Random) -> Question:
    """What is in a cell: the simplest question there is, as it says where to look."""
    things = {_place(thing): thing.name for thing in scene.things}
    asked = [Question("place", f"What is in the {place}?", things.get(place, "nothing")) for place in PLACES]
    return balance.pick(asked, rng)


def ask_where(scene: Scene, balance: Balance, rng: random.Random) -> Question | None:
    """The other way round: from a thing that is met once to its cell. A relation is two of these."""
    names = Counter(name for thing in scene.things for name in (thing.name, thing.form))
    asked = [
        Question("where", f"Where is the {name}?", _place(thing))
        for thing in scene.things
        for name in (thing.name, thing.form)
        if names[name] == 1
    ]
    return balance.pick(asked, rng) if asked else None


def _place(thing: Thing) -> str:
    return PLACES[GRID * thing.row + thing.column]


def _colour(scene: Scene) -> list[Question]:
    forms = Counter(thing.form for thing in scene.things)
    return [
        Question("colour", f"What colour is the {thing.form}?", thing.colour)
        for thing in scene.things
        if forms[thing.form] == 1
    ]


def _existence(scene: Scene) -> list[Question]:
    """Absent things are made of a colour and a form that are both there: seeing one of the two is not enough."""
    present = {(thing.colour, thing.form) for thing in scene.things}
    colours, forms = sorted({c for c, _ in present}), sorted({f for _, f in present})
    return [
        Question("existence", f"Is there a {colour} {form}?", "yes" if (colour, form) in present else "no")
        for colour in colours
        for form in forms
    ]


def _count(scene: Scene) -> list[Question]:
    counted = Counter(f"{thing.colour} objects" for thing in scene.things)
    counted.update(_PLURAL.get(t.form, f"{t.form}s") for t in scene.things if t.form in SHAPES)
    return [
        Question("count", f"How many {what} are there?", str(number))
        for what, number in sorted(counted.items())
        if number <= MAX_COUNT
    ]


def _relation(scene: Scene) -> list[Question]:
    """Only things that are met once, and that share a row or a column: one word says where one is."""
    names = Counter(thing.name for thing in scene.things)
    alone = [thing for thing in scene.things if names[thing.name] == 1]
    questions = []
    for one in alone:
        for other in alone:
            if one is other or (one.row != other.row and one.column != other.column):
                continue
            if one.row == other.row:
                answer = "left" if one.column < other.column else "right"
            else:
                answer = "above" if one.row < other.row else "below"
            questions.append(Question("relation", f"Where is the {one.name} relative to the {other.name}?", answer))
    return questions


def _read(scene: Scene) -> list[Question]:
    questions = []
    for what, names in (("digit", DIGITS), ("letter", LETTERS)):
        shown = [thing for thing in scene.things if thing.form in names]
        if len(shown) == 1:
            questions.append(Question("read", f"Which {what} is shown?", shown[0].form))
        for colour in COLOURS:
            coloured = [thing for thing in shown if thing.colour == colour]
            if len(coloured) == 1:
                questions.append(Question("read", f"Which {what} is {colour}?", coloured[0].form))
    return questions


_ASK: dict[str, Callable[[Scene], list[Question]]] = {
    "colour": _colour,
    "existence": _existence,
    "count": _count,
    "relation": _relation,
    "read": _read,
}
KINDS = tuple(_ASK)
