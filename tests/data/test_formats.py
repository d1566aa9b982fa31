"""The same conversations in every format give the same batches; and what of a row is refused."""

import base64
import json

import datasets
import pytest
import torch
from question_sets import png

from yopo_train.data.formats import RowError, as_row
from yopo_train.data.module import VQADataModule
from yopo_train.data.rows import load_rows
from yopo_train.data.sources import has_split
from yopo_train.errors import UserError

PICTURES = {f"pictures/{number}.png": png(number, (40 + 8 * number, 64)) for number in range(3)}
TALKS = {
    "one": [("user", ["pictures/0.png", "What is this?"]), ("assistant", "A square."), ("user", ["Sure?"]),
            ("assistant", "Yes.")],
    "two": [("system", "Be brief."), ("user", ["Hello, ü."]), ("assistant", "Hi.")],
    "three": [("user", ["Compare ", "pictures/1.png", " and ", "pictures/2.png"]), ("assistant", "One is wider.")],
    "four": [("user", ["pictures/0.png", "First."]), ("assistant", "Seen."), ("user", ["pictures/0.png", "Again?"]),
             ("assistant", "The same.")],
}  # fmt: skip
"""By id: content as stretches of text and images."""


def images_of(talk) -> list[str]:
    return [part for _, content in talk if isinstance(content, list) for part in content if part in PICTURES]


def flat(content) -> str:
    return content if isinstance(content, str) else "".join("<image>" if p in PICTURES else p for p in content)


def plain(bytes_of=None) -> list[dict]:
    """The project's own rows, images by path or as `bytes_of` gives them."""
    return [
        {"id": name, "kind": "talk", "images": [bytes_of(i) if bytes_of else i for i in images_of(talk)],
         "messages": [{"role": role, "content": flat(content)} for role, content in talk]}
        for name, talk in TALKS.items()
    ]  # fmt: skip


def embedded(image: str) -> dict:
    return {"bytes": PICTURES[image], "path": None}


def llava() -> list[dict]:
    """As LLaVA's own file: ``image`` a text or a list, and no key where there is none; one id is a number there."""
    speakers = {"user": "human", "assistant": "gpt", "system": "system"}
    rows = []
    for name, talk in TALKS.items():
        row = {"id": name, "conversations": [{"from": speakers[r], "value": flat(c)} for r, c in talk]}
        images = images_of(talk)
        rows.append(row | ({"image": images[0] if len(images) == 1 else images} if images else {}))
    return rows


def parts(inline) -> list[dict]:
    """Hugging Face messages with parts; `inline` makes an image's part, or images stand in their column."""
    rows = []
    for name, talk in TALKS.items():
        messages = []
        for role, content in talk:
            pieces = [content] if isinstance(content, str) else content
            made = [(inline(p) if inline else {"type": "image"}) if p in PICTURES else {"type": "text", "text": p}
                    for p in pieces]  # fmt: skip
            messages.append({"role": role, "content": made})
        rows.append({"id": name, "messages": messages} | ({} if inline else {"images": images_of(talk)}))
    return rows


def data_address(image: str) -> str:
    return "data:image/png;base64," + base64.b64encode(PICTURES[image]).decode()


def lines(folder, rows, name="train.jsonl"):
    (folder / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return folder


def listed(folder, rows, name="train.json"):
    (folder / name).write_text(json.dumps(rows, indent=1), "utf-8")
    return folder


def parquet(folder, rows):
    datasets.Dataset.from_list(rows).to_parquet(folder / "train-0.parquet")
    return folder


def union(rows) -> list[dict]:
    """Parts with all their fields, as a table has them."""
    nothing = {"text": None, "image": None}
    for row in rows:
        for message in row["messages"]:
            message["content"] = [nothing | part for part in message["content"]]
    return rows


def saved(folder, rows, as_dict):
    table = datasets.Dataset.from_list(rows).cast_column("images", datasets.List(datasets.Image()))
    (datasets.DatasetDict({"train": table}) if as_dict else table).save_to_disk(folder / "saved")
    return folder / "saved"


def described(folder, rows):
    """A layout that only `load_dataset` understands."""
    (folder / "shards").mkdir()
    datasets.Dataset.from_list(rows).to_parquet(folder / "shards" / "a.parquet")
    config = "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: shards/*.parquet\n"
    (folder / "README.md").write_text(f"---\n{config}---\n")
    return folder


FORMATS = {
    "own, parquet": lambda folder: parquet(folder, plain(embedded)),
    "own, lines": lambda folder: lines(folder, plain()),
    "own, list": lambda folder: listed(folder, plain()),
    "LLaVA, list": lambda folder: listed(folder, llava()),
    "LLaVA, lines": lambda folder: lines(folder, llava(), "train.json"),
    "LLaVA, one file": lambda folder: listed(folder, llava(), "mix665k.json") / "mix665k.json",
    "parts, column": lambda folder: lines(folder, parts(None)),
    "parts, paths": lambda folder: lines(folder, parts(lambda image: {"type": "image", "path": image})),
    "parts, bytes": lambda folder: parquet(folder, union(parts(lambda i: {"type": "image", "image": embedded(i)}))),
    "parts, addresses": lambda folder: lines(
        folder, parts(lambda image: {"type": "image_url", "image_url": {"url": data_address(image)}})
    ),
    "save_to_disk, splits": lambda folder: saved(folder, plain(embedded), True),
    "save_to_disk, one": lambda folder: saved(folder, plain(embedded), False),
    "load_dataset": lambda folder: described(folder, plain(embedded)),
}


def batch_of(path, processor, **options) -> dict:
    data = VQADataModule(str(path), batch_size=4, **options)
    data.processor = processor
    (batch,) = data.train_dataloader()
    return batch


@pytest.fixture(scope="module")
def expected(tmp_path_factory, processor):
    return batch_of(FORMATS["own, parquet"](tmp_path_factory.mktemp("own")), processor)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_batch(name, tmp_path, processor, expected):
    (tmp_path / "pictures").mkdir()
    for file, content in PICTURES.items():
        (tmp_path / file).write_bytes(content)
    path = FORMATS[name](tmp_path)
    found = batch_of(path, processor)
    assert [meta["id"] for meta in found["meta"]] == [meta["id"] for meta in expected["meta"]]
    assert found.keys() == expected.keys() and "pixel_values" in found
    assert all(torch.equal(found[name], expected[name]) for name in found if name != "meta")
    assert has_split(path, "train") and not has_split(path, "test")


def test_images_of_another_folder(tmp_path, processor, expected):
    (tmp_path / "elsewhere" / "pictures").mkdir(parents=True)
    for file, content in PICTURES.items():
        (tmp_path / "elsewhere" / file).write_bytes(content)
    listed(tmp_path, llava())
    found = batch_of(tmp_path, processor, image_root=str(tmp_path / "elsewhere"))
    assert torch.equal(found["pixel_values"], expected["pixel_values"])
    with pytest.raises(UserError, match=r"^data.image_root: the folder 'nowhere' does not exist$"):
        batch_of(tmp_path, processor, image_root="nowhere")


def test_a_hub_id_with_a_subset(monkeypatch):
    asked = []

    def load(*args, split):
        asked.append((*args, split))
        return datasets.Dataset.from_list(plain(embedded))

    monkeypatch.setattr(
        "yopo_train.data.sources.get_dataset_split_names", lambda *args: asked.append(args) or ["train"]
    )
    monkeypatch.setattr("yopo_train.data.sources.load_dataset", load)
    data = VQADataModule("owner/name", subset="small")
    assert [row["id"] for row in data.rows("train")] == list(TALKS)
    assert asked == [("owner/name", "small"), ("owner/name", "small", "train")]


def test_rows_without_id_and_kind(tmp_path):
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    rows = load_rows(lines(tmp_path, [{"messages": talk}, {"messages": talk, "id": 7}]), "train")
    assert [row["id"] for row in rows] == ["0", "7"] and rows.kinds == ["question"]


def test_a_long_list_is_read_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr("yopo_train.data.json_files.CHUNK", 50)
    listed(tmp_path, [row | {"id": f"é{number}"} for number in range(30) for row in llava()[1:2]])
    assert [row["id"] for row in load_rows(tmp_path, "train")] == [f"é{number}" for number in range(30)]


def test_a_changed_file_is_read_again(tmp_path):
    lines(tmp_path, llava()[1:2])
    assert len(load_rows(tmp_path, "train")) == 1
    lines(tmp_path, [llava()[1] | {"id": "longer"}] * 3)
    assert [row["id"] for row in load_rows(tmp_path, "train")] == ["longer"] * 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"id": 1}, {"id": ]', r"train.json, entry 1: not JSON"),
        ('[{"id": 1}, ', r"train.json, entry 1: not JSON"),
        ("[]", r"split 'train' is empty, expected rows"),
        (b"\xff\xfe[", r"train.json: not UTF-8 text"),
    ],
)
def test_files_that_are_no_json(tmp_path, content, message):
    (tmp_path / "train.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        load_rows(tmp_path, "train")


@pytest.mark.parametrize("path", ["rows.csv", "missing.jsonl"])
def test_files_of_another_kind(tmp_path, path):
    (tmp_path / "rows.csv").write_text("a,b\n")
    with pytest.raises(UserError, match=r"^data.path: "):
        load_rows(tmp_path / path, "train")


TALK = [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": "x"}]
REFUSED = {
    "no messages": ({"id": 1}, "no messages"),
    "messages of another type": ({"messages": "hi"}, "no messages"),
    "a message of another type": ({"messages": ["hi"]}, "no messages"),
    "content of another type": ({"messages": [{"role": "user", "content": 3}]}, "content is no text"),
    "a part of another type": ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "content is no text"),
    "an image of another type": ({"messages": TALK, "images": [3]}, "no image"),
    "an image that is null": ({"messages": TALK, "images": [{"bytes": None, "path": None}]}, "no image"),
    "an image on the web": ({"messages": TALK, "images": ["https://a.b/c.png"]}, "image is an address"),
    "an image that is no base64": ({"messages": TALK, "images": ["data:image/png;base64,?"]}, "image is unreadable"),
    "kind is null": ({"messages": TALK, "images": ["a"], "kind": None}, "no kind"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_rows_that_cannot_be_converted(case):
    raw, fault = REFUSED[case]
    with pytest.raises(RowError) as found:
        as_row(raw, 0)
    assert found.value.fault == fault and "\n" not in str(found.value)
