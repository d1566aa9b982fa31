"""The shipped samples, and the same questions with the hub's columns, as the hub's repositories lay them out."""

import base64
import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, Features, Image, List, Value

REPOSITORY = Path(__file__).parents[3]
TEXT = Value("string")
CATEGORIES = ("adversarial", "popular", "random")


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def stored(file: Path) -> dict:
    return {"bytes": file.read_bytes(), "path": file.name}


def gqa(folder: Path) -> dict:
    questions = json.loads((folder / "testdev_balanced_questions.json").read_text())
    names = ("imageId", "question", "answer", "fullAnswer", "isBalanced", "types")
    rows = [{"id": name} | {key: row[key] for key in names} for name, row in questions.items()]
    kinds = {"detailed": TEXT, "semantic": TEXT, "structural": TEXT}
    features = {"id": TEXT, **dict.fromkeys(names, TEXT), "isBalanced": Value("bool"), "types": kinds}
    pictures = [
        {"id": file.stem, "image": stored(file)} for file in sorted((folder / "images").iterdir(), reverse=True)
    ]
    return {
        ("testdev_balanced_instructions", "testdev"): (rows, features),
        ("testdev_balanced_images", "testdev"): (pictures, {"id": TEXT, "image": Image()}),
    }


def vqav2(folder: Path) -> dict:
    answer = {"answer": TEXT, "answer_confidence": TEXT, "answer_id": Value("int64")}
    number = Value("int64")
    features = {"question_id": number, "image_id": number, "question": TEXT, "image": Image(), "question_type": TEXT,
                "answer_type": TEXT, "multiple_choice_answer": TEXT, "answers": List(answer)}  # fmt: skip
    made = {}
    for split, subset, coco in (("validation", "val2014", "val2014"), ("testdev", "test-dev2015", "test2015")):
        questions = json.loads((folder / f"v2_OpenEnded_mscoco_{subset}_questions.json").read_text())["questions"]
        file = folder / f"v2_mscoco_{subset}_annotations.json"
        gold = {row["question_id"]: row for row in json.loads(file.read_text())["annotations"]} if file.exists() else {}
        rows = []
        for row in questions:
            picture = stored(folder / coco / f"COCO_{coco}_{row['image_id']:012d}.jpg")
            whole = row | gold.get(row["question_id"], {}) | {"image": picture}
            rows.append({name: whole.get(name) for name in features})
        made["default", split] = (rows, features)
    return made


def scienceqa(folder: Path) -> dict:
    problems = json.loads((folder / "problems.json").read_text())
    ids = json.loads((folder / "pid_splits.json").read_text())["test"]
    names = ("hint", "task", "grade", "subject", "topic", "category", "skill", "lecture", "solution")
    features = {"image": Image(), "question": TEXT, "choices": List(TEXT), "answer": Value("int8")}
    features |= dict.fromkeys(names, TEXT)
    rows = []
    for name in ids:
        file = folder / "images" / "test" / name / "image.png"
        rows.append({key: problems[name][key] for key in features} | {"image": stored(file) if file.exists() else None})
    with_image = [row for row in rows if row["image"]]
    return {("ScienceQA-FULL", "test"): (rows, features), ("ScienceQA-IMG", "test"): (with_image, features)}


def textvqa(folder: Path) -> dict:
    rows = json.loads((folder / "TextVQA_0.5.1_val.json").read_text())["data"]
    read = [row["text"].split("\n")[1] for row in lines(folder / "llava_textvqa_val_v051_ocr.jsonl")]
    tokens = [[token for token in line.removeprefix("Reference OCR token: ").split(", ") if token] for line in read]
    features = {"image_id": TEXT, "question_id": Value("int32"), "question": TEXT, "image": Image(),
                "answers": List(TEXT), "ocr_tokens": List(TEXT)}  # fmt: skip
    made = []
    for row, found in zip(rows, tokens, strict=True):
        whole = row | {"image": stored(folder / "train_images" / f"{row['image_id']}.jpg"), "ocr_tokens": found}
        made.append({name: whole[name] for name in features})
    return {("default", "validation"): (made, features)}


def pope(folder: Path) -> dict:
    features = {"id": TEXT, "question_id": TEXT, "question": TEXT, "answer": TEXT, "image_source": TEXT,
                "image": Image(), "category": TEXT}  # fmt: skip
    made, every = {}, []
    for category in CATEGORIES:
        rows = []
        for row in lines(folder / "coco" / f"coco_pope_{category}.json"):
            values = (str(len(every)), str(row["question_id"]), row["text"], row["label"], row["image"][:-4],
                      stored(folder / "val2014" / row["image"]), category)  # fmt: skip
            rows.append(dict(zip(features, values, strict=True)))
            every.append(rows[-1])
        without = {name: kind for name, kind in features.items() if name != "category"}
        made["Full", category] = ([{name: row[name] for name in without} for row in rows], without)
    return made | {("default", "test"): (every, features)}


def mme(folder: Path) -> dict:
    features = {"question_id": TEXT, "image": Image(), "question": TEXT, "answer": TEXT, "category": TEXT}
    rows = []
    for file in sorted(folder.rglob("*.txt")):
        category = file.relative_to(folder).parts[0]
        image = next(each for each in (folder / category).rglob(f"{file.stem}.*") if each.suffix != ".txt")
        for line in file.read_text().splitlines():
            values = (f"{category}/{image.name}", stored(image), *line.split("\t"), category)
            rows.append(dict(zip(features, values, strict=True)))
    return {("default", "test"): (rows, features)}


def mmbench(folder: Path) -> dict:
    names = ("question", "hint", "answer", "A", "B", "C", "D", "category", "source", "L2-category", "comment", "split")
    features = {"index": Value("int64"), **dict.fromkeys(names, TEXT), "image": Image()}
    made = {}
    for split in ("dev", "test"):
        with (folder / f"mmbench_{split}_20230712.tsv").open(newline="") as file:
            rows = list(csv.DictReader(file, dialect="excel-tab"))
        for row in rows:
            row["L2-category"] = row.pop("l2-category")
            row |= {name: row.get(name) or "nan" for name in names}  # how the hub writes what is missing
            row |= {"index": int(row["index"]), "image": {"bytes": base64.b64decode(row["image"]), "path": None}}
        made["en", split] = (rows, features)
    return made


HUB_COPIES: dict[str, Callable[[Path], dict]] = {
    "gqa": gqa,
    "vqav2": vqav2,
    "scienceqa": scienceqa,
    "textvqa": textvqa,
    "pope": pope,
    "mme": mme,
    "mmbench": mmbench,
}


@pytest.fixture(scope="session")
def samples() -> Path:
    """Folder of the samples that ship."""
    return REPOSITORY / "data" / "benchmarks"


@pytest.fixture
def sample(samples, tmp_path) -> Callable[[str], Path]:
    """A benchmark's sample in a folder of its own, to be spoilt."""
    return lambda name: Path(shutil.copytree(samples / name, tmp_path / name))


@pytest.fixture(scope="session")
def hub_copy(samples, tmp_path_factory) -> Callable[..., Path]:
    """A benchmark's sample as the hub has it: a folder a config, parquet files or what `save_to_disk` writes.

    ``change`` may alter the rows and features before they are written.
    """

    made: dict[tuple[str, bool], Path] = {}

    def write(name: str, saved: bool = False, change: Callable[[list, dict], None] | None = None) -> Path:
        if change is None and (name, saved) in made:
            return made[name, saved]
        out = tmp_path_factory.mktemp(name)
        if change is None:
            made[name, saved] = out
        tables: dict[str, dict[str, Dataset]] = {}
        for (config, split), (rows, features) in HUB_COPIES[name](samples / name).items():
            rows, features = [dict(row) for row in rows], dict(features)
            if change is not None:
                change(rows, features)
            tables.setdefault(config, {})[split] = Dataset.from_list(rows, features=Features(features))
        for config, splits in tables.items():
            folder = out / ("data" if config == "default" and not saved else "" if config == "default" else config)
            if saved:
                DatasetDict(splits).save_to_disk(str(folder))
            else:
                folder.mkdir(exist_ok=True)
                for split, table in splits.items():
                    table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
        return out

    return write
