"""Write question sets as a folder that `datasets.load_dataset` reads.

    python -m yopo_train.data.shapes data/tiny-vqa
    python -m yopo_train.data.shapes runs/dialogue-data --style dialogue --train 36000 --calibration 0 --seed 2 \
        --apart-from data/tiny-vqa

A row is {id, images, messages, kind}. Style `questions` writes one question a row, each kind equally often, and
several rows share an image; its training rows ask several questions about one image each, as instruction data does,
and also where things are: a relation is two of these. The other styles are for training from scratch, with one image a
row: `list` says what is in every place, which teaches a model to see; `dialogue` asks questions and lists things by
their looks, which teaches it to find and to compare them; `drill` only asks.
"""

import argparse
import hashlib
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from yopo_train.data.shapes.questions import (
    COMPARISONS,
    KINDS,
    LISTS_BY_LOOKS,
    Balance,
    Question,
    ask,
    list_characters,
    list_counts,
    list_things,
)
from yopo_train.data.shapes.scene import Scene, draw, png_bytes, sample_scene
from yopo_train.errors import UserError
from yopo_train.run_folder import need_empty

SPLITS = ("train", "calibration", "validation", "test")
ROWS_AN_IMAGE = 3
TRAINING_TURNS = 4
TRAINING_KINDS = (*KINDS, "relation", "relation", "relation", "where", "where")  # what is learned last, more often
DIALOGUE_KINDS = (*KINDS, "relation", "where")
DRILL_KINDS = (*KINDS, "existence", "relation", "relation", "relation")


class SceneSource:
    """Fresh scenes with their PNG files; no picture is given out twice, whatever the split, nor one `taken` before."""

    def __init__(self, taken: Iterable[bytes] = ()) -> None:
        self.seen = {_digest(png) for png in taken}

    def __call__(self, rng: random.Random) -> tuple[Scene, bytes]:
        while True:
            scene = sample_scene(rng)
            png = png_bytes(draw(scene))
            if _digest(png) not in self.seen:
                self.seen.add(_digest(png))
                return scene, png


def question_rows(number: int, split: str, source: SceneSource, rng: random.Random) -> Iterator[dict]:
    """`number` rows: dialogues to train on, elsewhere one question a row.

    Of the questions each kind comes equally often (the first kinds get the remainder).
    """
    if split == "train":
        yield from _dialogues(number, split, source, rng, TRAINING_KINDS, TRAINING_TURNS)
        return
    missing = {kind: number // len(KINDS) + (i < number % len(KINDS)) for i, kind in enumerate(KINDS)}
    balance, written = Balance(), 0
    while any(missing.values()):
        scene, png = source(rng)
        open_kinds = sorted((kind for kind in KINDS if missing[kind]), key=lambda kind: (-missing[kind], rng.random()))
        for kind in open_kinds[:ROWS_AN_IMAGE]:
            question = ask(scene, kind, balance, rng)
            if question is not None:
                yield _row(f"{split}-{written:05d}", png, [question], kind)
                missing[kind] -= 1
                written += 1


def list_rows(number: int, split: str, source: SceneSource, rng: random.Random) -> Iterator[dict]:
    """`number` rows of one image and one turn each: everything with its place."""
    for i in range(number):
        scene, png = source(rng)
        yield _row(f"{split}-{i:05d}", png, [list_things(scene)], "list")


def dialogue_rows(number: int, split: str, source: SceneSource, rng: random.Random) -> Iterator[dict]:
    """`number` rows of one image each: five of `DIALOGUE_KINDS` in random order, then three lists.

    The lists come last: after them a question could be answered from the text, without looking. They teach to find
    things by their looks, to read and to compare, one step at a time, where a question asks for two.
    """

    def lists(scene: Scene, balance: Balance) -> list[Question]:
        chosen = (rng.choice(LISTS_BY_LOOKS), rng.choice(COMPARISONS), rng.choice((list_counts, list_characters)))
        made = [question for make in chosen if (question := make(scene)) is not None]
        rng.shuffle(made)
        return made

    yield from _dialogues(number, split, source, rng, DIALOGUE_KINDS, 5, lists)


def drill_rows(number: int, split: str, source: SceneSource, rng: random.Random) -> Iterator[dict]:
    """`number` rows of one image each: `DRILL_KINDS` in random order, then where two things are, and no list.

    Where things are comes last, as a relation could be read off it.
    """

    def places(scene: Scene, balance: Balance) -> list[Question]:
        return _asked(scene, ["where"] * 2, balance, rng)

    yield from _dialogues(number, split, source, rng, DRILL_KINDS, len(DRILL_KINDS), places)


STYLES = {
    "questions": question_rows,
    "list": list_rows,
    "dialogue": dialogue_rows,
    "drill": drill_rows,
}


def build(
    out: str | Path, style: str = "questions", seed: int = 0, apart_from: str | Path | None = None, **rows: int
) -> dict[str, list[dict]]:
    """Write the split files of one question set.

    Parameters
    ----------
    out : folder to write `<split>-00000-of-00001.parquet` into. It must not exist yet, or be empty.
    style : one of `STYLES`.
    seed : the same seed, style and row numbers give the same rows.
    apart_from : folder of another question set, none of whose pictures may be drawn.
    **rows : rows of each split, by its name (`train`, `calibration`, `validation`, `test`); a split of 0 is left out.

    Returns
    -------
    dict : the rows of each split, images as {"bytes": PNG file, "path": None}.

    Raises
    ------
    UserError : `out` holds files already, or `apart_from` holds no question set.
    """
    out = Path(out)
    need_empty(out)
    source, splits = SceneSource(_pictures(Path(apart_from)) if apart_from else ()), {}
    for split in SPLITS:
        if rows.get(split):
            rng = random.Random(f"{seed}/{style}/{split}")
            splits[split] = list(STYLES[style](rows[split], split, source, rng))
    _write(out, splits)
    return splits


def _asked(scene: Scene, kinds: Iterable[str], balance: Balance, rng: random.Random) -> list[Question]:
    """A question of each kind, less those that the scene does not have, and each once."""
    found = [ask(scene, kind, balance, rng) for kind in kinds]
    return list(dict.fromkeys(question for question in found if question is not None))


def _dialogues(
    number: int,
    split: str,
    source: SceneSource,
    rng: random.Random,
    kinds: tuple[str, ...],
    turns: int,
    last: Callable[[Scene, Balance], list[Question]] = lambda scene, balance: [],
) -> Iterator[dict]:
    """`number` rows of one image each: `turns` of `kinds` in random order, and what comes `last`."""
    balance = Balance()
    for i in range(number):
        scene, png = source(rng)
        questions = _asked(scene, rng.sample(kinds, turns), balance, rng)
        yield _row(f"{split}-{i:05d}", png, questions + last(scene, balance), "dialogue")


def _card(splits: dict[str, list[dict]]) -> str:
    """The folder's README.md. Its header names the files of each split: `load_dataset` would overlook `calibration`."""
    files = "".join(f"  - split: {split}\n    path: {split}-*.parquet\n" for split in splits)
    header = f"---\nlicense: cc0-1.0\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n"
    return header + "Drawn pictures and questions about them, written by `python -m yopo_train.data.shapes`.\n"


def _digest(png: bytes) -> str:
    return hashlib.sha256(png).hexdigest()


def _pictures(folder: Path) -> Iterator[bytes]:
    """Every image file of a question set."""
    import pyarrow.parquet as parquet

    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise UserError(f"{folder}: no parquet files there; expected a question set")
    for file in files:
        for images in parquet.read_table(file, columns=["images"])["images"].to_pylist():
            yield from (image["bytes"] for image in images)


def _row(name: str, png: bytes, questions: list[Question], kind: str) -> dict:
    messages = []
    for i, question in enumerate(questions):
        content = f"<image>\n{question.text}" if i == 0 else question.text
        messages += [{"role": "user", "content": content}, {"role": "assistant", "content": question.answer}]
    return {"id": name, "images": [{"bytes": png, "path": None}], "messages": messages, "kind": kind}


def _write(out: Path, splits: dict[str, list[dict]]) -> None:
    from datasets import Dataset, Features, Image, List, Value

    message = {"role": Value("string"), "content": Value("string")}
    features = Features(
        {"id": Value("string"), "images": List(Image()), "messages": List(message), "kind": Value("string")}
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "README.md").write_text(_card(splits))
    for split, rows in splits.items():
        Dataset.from_list(rows, features=features).to_parquet(out / f"{split}-00000-of-00001.parquet")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m yopo_train.data.shapes", description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--style", choices=sorted(STYLES), default="questions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--apart-from", type=Path, help="a question set whose pictures must not be drawn again")
    for split, number in zip(SPLITS, (3200, 320, 300, 1000), strict=True):
        parser.add_argument(f"--{split}", type=int, default=number, metavar="ROWS")
    args = parser.parse_args(argv)
    try:
        splits = build(
            args.out, args.style, args.seed, args.apart_from, **{split: getattr(args, split) for split in SPLITS}
        )
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
    for split, rows in splits.items():
        print(f"{split}: {len(rows)} rows, {len({row['images'][0]['bytes'] for row in rows})} images")
