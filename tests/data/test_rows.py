"""Reading question sets, and what is refused."""

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as PILImage
from question_sets import KINDS, make_row, png, write_split

from yopo_train.data import images as module_of_images
from yopo_train.data.rows import load_rows
from yopo_train.data.sources import has_split
from yopo_train.errors import UserError


def test_rows_are_read_from_disk_one_by_one(tmp_path):
    folder = write_split(tmp_path / "set", "calibration", [make_row(i, images=i % 3) for i in range(6)])
    rows = load_rows(folder, "calibration")
    assert len(rows) == 6 and rows.kinds == sorted(KINDS)
    assert rows.parts[0].table.cache_files, "the rows are not memory-mapped"
    row = rows[2]
    assert row["id"] == "row-2" and row["kind"] == "digit" and row["messages"][1]["role"] == "assistant"
    assert [(image.mode, image.size) for image in row["images"]] == [("RGB", (96, 96))] * 2
    assert rows[0]["images"] == []
    assert has_split(folder, "calibration") and not has_split(folder, "train")


def test_a_folder_of_json_lines_beside_images(tmp_path):
    rows = [make_row(i, images=0) for i in range(3)]
    (tmp_path / "set").mkdir()
    for row in rows:
        row["images"] = ["red.png"]
        row["messages"][0]["content"] = "<image>What?"
    PILImage.new("L", (5, 7)).save(tmp_path / "set" / "red.png")
    datasets.Dataset.from_list(rows).to_json(tmp_path / "set" / "test.jsonl")
    loaded = load_rows(tmp_path / "set", "test")
    assert loaded[1]["images"][0].mode == "RGB" and loaded[1]["images"][0].size == (5, 7)


@pytest.mark.parametrize("image", ["pictures/a.png", {"bytes": None, "path": "pictures/a.png"}], ids=["text", "struct"])
def test_images_by_path(tmp_path, image):
    folder = tmp_path / "set"
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures" / "a.png").write_bytes(png(1))
    struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    images = pa.array([[image]], pa.list_(struct if isinstance(image, dict) else pa.string()))
    table = pa.Table.from_pylist([make_row(0)]).drop_columns("images").append_column("images", images)
    pq.write_table(table, folder / "test.parquet")
    assert load_rows(folder, "test")[0]["images"][0].size == (96, 96)

    (folder / "pictures" / "a.png").rename(folder / "pictures" / "b.png")
    with pytest.raises(UserError, match=r"split 'test', row 'row-0': the image 'pictures/a.png' does not exist"):
        load_rows(folder, "test")


def test_rows_without_images_column_values(tmp_path):
    folder = write_split(tmp_path / "set", "test", [make_row(0, images=0) | {"images": None}, make_row(1)])
    rows = load_rows(folder, "test")
    assert rows[0]["images"] == [] and len(rows[1]["images"]) == 1
    assert [rows.messages_and_sizes(index)[1] for index in range(2)] == [[], [(96, 96)]]


def test_a_limit_draws_by_seed_and_keeps_the_order(tmp_path):
    rows = load_rows(write_split(tmp_path / "set", "test", [make_row(i) for i in range(30)]), "test")
    drawn = [[row["id"] for row in rows.sample(8, seed)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] == sorted(drawn[0], key=lambda name: int(name.split("-")[1])) and len(set(drawn[0])) == 8
    assert rows.sample(None, 0) is rows and rows.sample(30, 0) is rows
    assert rows.fingerprint() == rows.sample(30, 1).fingerprint() != rows.sample(8, 0).fingerprint()


def _with(**changes) -> list[dict]:
    return [make_row(0), make_row(1) | changes]


def _messages(*turns: tuple[str, str | None]) -> list[dict]:
    return [{"role": role, "content": content} for role, content in turns]


BAD_ROWS = {
    "too few images": (
        _with(images=[]),
        r"split 'train', row 'row-1': 1 <image> placeholders but 0 images",
    ),
    "too many images": (
        _with(messages=_messages(("user", "What?"), ("assistant", "red"))),
        r"row 'row-1': 0 <image> placeholders but 1 images",
    ),
    "no answer": (_with(messages=_messages(("user", "<image>"))), r"row 'row-1': the last message must be"),
    "no messages": (_with(messages=[]), r"row 'row-1': the last message must be"),
    "unknown role": (
        _with(messages=_messages(("human", "<image>"), ("assistant", "red"))),
        r"row 'row-1': unknown role 'human', expected one of: system, user, assistant",
    ),
    "no content": (
        _with(messages=_messages(("user", "<image>"), ("assistant", None))),
        r"row 'row-1': the content of a message is None",
    ),
    "image in an answer": (
        _with(messages=_messages(("user", "What?"), ("assistant", "<image>"))),
        r"row 'row-1': <image> stands in a message of the assistant",
    ),
    "no kind": (_with(kind=None), r"row 'row-1': kind is missing"),
    "no rows": ([], r"split 'train' is empty, expected rows"),
    "missing columns": (
        [{"id": "a", "images": []}],
        r"split 'train': no column messages or conversations; found: id, images",
    ),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows(tmp_path, case):
    rows, message = BAD_ROWS[case]
    with pytest.raises(UserError, match=message):
        load_rows(write_split(tmp_path / "set", "train", rows), "train")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("images", 3, r"column images is int64, expected a list of images or of paths"),
        ("images", [1], r"column images is list<.*int64>, expected a list of images or of paths"),
        ("messages", [{"who": "human", "says": "hi"}], r"column messages is list<.*>, expected a list of {role, con"),
        ("messages", "hi", r"column messages is string, expected"),
        ("kind", 3, r"column kind is int64, expected text"),
    ],
)
def test_columns_of_another_type(tmp_path, column, value, message):
    row = {"id": "a", "images": ["a.png"], "messages": _messages(("user", "b"), ("assistant", "c")), "kind": "d"}
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_list([row | {column: value}]).to_parquet(tmp_path / "set" / "train.parquet")
    with pytest.raises(UserError, match=message):
        load_rows(tmp_path / "set", "train")


def test_a_missing_split_is_named(tmp_path):
    folder = write_split(tmp_path / "set", "train", [make_row(0)])
    with pytest.raises(UserError, match=r"no split 'validation'; found: train$"):
        load_rows(folder, "validation")


@pytest.mark.parametrize("path", ["nowhere", "./nowhere", "/no/where/at/all", "tests/nowhere"])
def test_a_missing_folder_is_not_looked_up_on_the_hub(path, monkeypatch):
    monkeypatch.setattr("yopo_train.data.sources.get_dataset_split_names", None)
    with pytest.raises(UserError, match=rf"data.path: the folder '{path}' does not exist"):
        load_rows(path, "train")


def test_an_unknown_hub_id(monkeypatch):
    def offline(path):
        raise ConnectionError("Couldn't reach it\non the Hub")

    monkeypatch.setattr("yopo_train.data.sources.get_dataset_split_names", offline)
    with pytest.raises(UserError, match=r"^data.path: cannot read 'owner/name' \(Couldn't reach it\)$"):
        load_rows("owner/name", "train")


def test_an_empty_folder_and_a_corrupt_file(tmp_path):
    with pytest.raises(UserError, match=r"data.path: cannot read .*"):
        load_rows(tmp_path, "train")
    (tmp_path / "train.parquet").write_bytes(b"not a parquet file")
    with pytest.raises(UserError, match=r"data.path: cannot read .*"):
        load_rows(tmp_path, "train")


@pytest.mark.parametrize("kept", [20, 80])  # bytes: not even the header; the header and no pixels
def test_a_corrupt_image_names_its_row(tmp_path, kept):
    bad = make_row(1) | {"images": [{"bytes": png(0)[:kept], "path": None}]}
    rows = load_rows(write_split(tmp_path / "set", "train", [make_row(0), bad]), "train")
    assert rows[0]["id"] == "row-0"
    with pytest.raises(UserError, match=r"split 'train', row 'row-1': image cannot be read as an image"):
        rows[1]


def test_an_image_file_that_may_not_be_read(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png(0))
    table = pa.Table.from_pylist([make_row(1) | {"images": ["a.png"]}])
    pq.write_table(table, tmp_path / "train.parquet")
    rows = load_rows(tmp_path, "train")
    assert len(rows[0]["images"]) == 1

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))  # root may read everything

    monkeypatch.setattr(module_of_images.Path, "read_bytes", refuse)
    with pytest.raises(UserError, match=r"split 'train', row 'row-1': a.png cannot be read as an image .*denied"):
        rows[0]


def test_an_image_of_too_many_pixels(tmp_path, monkeypatch):
    rows = load_rows(write_split(tmp_path / "set", "train", [make_row(0)]), "train")
    monkeypatch.setattr(PILImage, "MAX_IMAGE_PIXELS", 1000)  # of 96 x 96
    with pytest.raises(UserError, match=r"row 'row-0': image cannot be read as an image .*exceeds limit"):
        rows[0]


def test_the_kinds_are_those_of_the_chosen_rows(tmp_path):
    rows = load_rows(write_split(tmp_path / "set", "train", [make_row(i) for i in range(6)]), "train").select([0, 3, 4])
    assert rows.kinds == ["colour", "count"]
