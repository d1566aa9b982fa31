"""Write question sets as a folder that `datasets.load_dataset` reads.

    python -m yopo_train.data.shapes data/tiny-vqa
    python -m yopo_train.data.shapes runs/pretrain-data --style dialogue --train 24000 --calibration 0 --test 0 \
        --seed 1 --apart-from data/tiny-vqa

A row is {id, images, messages, kind}. Style `questions` writes one question a row, each kind equally often, and
several rows share an image; styles `dialogue` and `quiz` write several turns about one image a row, `dialogue`
with the list of all things by place among them, `quiz` by their looks.
"""

import argparse
import hashlib
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from yopo_train.data.shapes.questions import (
    KINDS,
    Balance,
    Question,
    ask,
    ask_place,
    ask_where,
    list_things,
    locate_things,
)
from yopo_train.data.shapes.scene import Scene, draw, png_bytes, sample_scene
from yopo_train.errors import UserError

SPLITS = ("train", "calibration", "validation", "test")
ROWS_AN_IMAGE = 3
TURNS = (4, 5)  # questions of a dialogue, besides those that teach to see: the list and some places
PLACE_TURNS = 2
QUIZ_KINDS = ("colour", "read", "existence", "relation", "count")


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
    """`number` rows of one question each, an equal number of each kind (the first kinds get the remainder)."""
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


def dialogue_rows(number: int, split: str, source: SceneSource, rng: random.Random) -> Iterator[dict]:
    """`number` rows of one image each, in random order: the list, some places, and `TURNS` questions of mixed kinds."""
    balance = Balance()
    for i in range(number):
        scene, png = source(rng)
        wanted = [KINDS[j % len(KINDS)] for j in range(rng.randint(*TURNS))]
        asked = [ask(scene, kind, balance, rng) for kind in wanted]
        asked += [ask_place(scene, balance, rng) for _ in range(PLACE_TURNS)]
        questions = list(dict.fromkeys([list_things(scene), *(q for q in asked if q is not None)]))
        rng.shuffle(questions)
        yield _row(f"{split}-{i:05d}", png, questions, "dialogue")


def quiz_rows(number: int, split: str, source: SceneSource, rng: random.Random) -> Iterator[dict]:
    """`number` rows of one image each, in random order: where all things are, where two are, and `QUIZ_KINDS`.

    For a model that has learned from dialogues to say what is in a place: here it learns to find things by their looks.
    """
    balance = Balance()
    for i in range(number):
        scene, png = source(rng)
        asked = [ask(scene, kind, balance, rng) for kind in QUIZ_KINDS]
        asked += [ask_where(scene, balance, rng) for _ in range(2)]
        questions = list(dict.fromkeys([locate_things(scene), *(q for q in asked if q is not None)]))
        rng.shuffle(questions)
        yield _row(f"{split}-{i:05d}", png, questions, "dialogue")


STYLES = {"questions": question_rows, "dialogue": dialogue_rows, "quiz": quiz_rows}


def build(
    out: str | Path, style: str = "questions", seed: int = 0, apart_from: str | Path | None = None, **rows: int
) -> dict[str, list[dict]]:
    """Write the split files of one question set.

    Parameters
    ----------
    out : folder to write `<split>-00000-of-00001.parquet` into. It must not exist yet, or be empty.
    style : "questions", "dialogue" or "quiz".
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
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: the folder is not empty; expected a new or an empty folder")
    source, splits = SceneSource(_pictures(Path(apart_from)) if apart_from else ()), {}
    for split in SPLITS:
        if rows.get(split):
            rng = random.Random(f"{seed}/{style}/{split}")
            splits[split] = list(STYLES[style](rows[split], split, source, rng))
    _write(out, splits)
    return splits


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
    for split, number in zip(SPLITS, (2500, 160, 300, 1000), strict=True):
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
