"""Whatever is wrong with a benchmark's files: one line that names file, row and field."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from yopo_train.errors import UserError
from yopo_train.evaluation.benchmarks import BENCHMARKS, get_benchmark

GQA = "testdev_balanced_questions.json"
VQA = "v2_OpenEnded_mscoco_val2014_questions.json"
GOLD = "v2_mscoco_val2014_annotations.json"
TEXT = "TextVQA_0.5.1_val.json"
TSV = "mmbench_dev_20230712.tsv"
PAIR = "existence/0001.txt"


def refused(message, name, source, **options):
    """`message` is a regular expression; the error is one line."""
    with pytest.raises(UserError, match=message) as caught:
        get_benchmark(name).items(source, **options)
    assert "\n" not in str(caught.value)


def edit(file, change):
    """Change a JSON file's value, or a JSON lines file's list of rows."""
    if file.suffix == ".json" and not file.name.startswith("coco_pope"):
        value = json.loads(file.read_text())
        change(value)
        file.write_text(json.dumps(value))
    else:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        change(rows)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def set_first(**values):
    """A change of the first row, wherever a file keeps its rows."""

    def change(value):
        if isinstance(value, dict):
            value = value.get("questions", value.get("annotations", value.get("data", value)))
        rows = value if isinstance(value, list) else list(value.values())
        rows[0].update(values)

    return change


@pytest.mark.parametrize(
    ("name", "file", "change", "message"),
    [
        ("gqa", GQA, set_first(answer=None), r"gqa/.*json, question '201000000', field answer: missing, but other row"),
        ("gqa", GQA, set_first(question=7), r"question '201000000', field question: found 7, expected text"),
        ("gqa", GQA, set_first(imageId="n5"), r"question '201000000', field image: 'n5.jpg' does not exist in .*image"),
        ("gqa", GQA, set_first(question="<image> is?"), r"'201000000', field question: holds '<image>'"),
        ("gqa", GQA, lambda rows: rows.update(a=[]), r"questions.json, 'a': found list, expected an object"),
        ("gqa", GQA, lambda rows: rows.clear(), r"gqa', split 'testdev': there are no rows|gqa, split 'testdev': ther"),
        ("vqav2", VQA, set_first(question_id=9001001), r"questions\[1\], field id: '9001001' was there before \(.*\[0"),
        ("vqav2", VQA, set_first(question_id="x"), r"questions\[0\], field question_id: found 'x', expected a whole"),
        ("vqav2", VQA, set_first(image_id=1.5), r"questions\[0\], field image_id: found 1.5, expected a whole number"),
        ("vqav2", VQA, set_first(image_id=1), r"field image: 'COCO_val2014_000000000001.jpg' does not exist in "),
        ("vqav2", VQA, lambda rows: rows.pop("questions"), r"questions.json, field questions: found NoneType, expecte"),
        ("vqav2", GOLD, set_first(answers=[]), r"questions\[0\], field answers: missing, but other rows"),
        ("vqav2", GOLD, set_first(answers=["red"]), r"questions\[0\], field answers: found \['red'\], expected a list"),
        ("vqav2", GOLD, set_first(question_id=None), r"annotations\[0\], field question_id: found None, expected a wh"),
        ("scienceqa", "problems.json", set_first(answer=9), r"problem '1', field answer: found 9, expected 0 to 1"),
        ("scienceqa", "problems.json", set_first(choices=[]), r"problem '1', field choices: found 0, expected 1 to 26"),
        ("scienceqa", "problems.json", set_first(choices="ab"), r"problem '1', field choices: found 'ab', expected a"),
        ("scienceqa", "problems.json", set_first(image="x.png"), r"problem '1', field image: '1/x.png' does not exist"),
        ("scienceqa", "problems.json", lambda rows: rows.pop("2"), r"problem '2': missing, but pid_splits.json names"),
        ("scienceqa", "pid_splits.json", lambda rows: rows.pop("test"), r"no split 'test'; found: train, val"),
        ("textvqa", TEXT, set_first(answers=["a"] * 9), r"data\[0\], field answers: found 9, expected 10"),
        ("textvqa", TEXT, set_first(answers=[1] * 10), r"data\[0\], field answers: found \[1, .*expected a list of te"),
        ("textvqa", TEXT, set_first(answers=None), r"data\[0\], field answers: missing, but other rows"),
        ("textvqa", TEXT, set_first(question_id=34603), r"data\[1\], field id: '34603' was there before"),
        ("textvqa", TEXT, set_first(image_id="no", ocr_tokens=[]), r"data\[0\], field image: 'no.jpg' does not exist"),
        ("pope", "coco/coco_pope_random.json", set_first(label="maybe"), r"random.json, line 1, field answer: found '"),
        ("pope", "coco/coco_pope_random.json", set_first(label=None), r"random.json, line 1, field label: found None"),
        ("pope", "coco/coco_pope_random.json", set_first(question_id=2), r"line 2, field id: 'random/2' was there bef"),
        ("pope", "coco/coco_pope_random.json", set_first(image="x"), r"random.json, line 1, field image: 'x' does not"),
    ],
)  # fmt: skip
def test_a_row_of_json(name, file, change, message, sample):
    folder = sample(name)
    edit(folder / file, change)
    refused(message, name, folder)


def test_a_category_of_pope_that_is_missing(sample):
    folder = sample("pope")
    (folder / "coco" / "coco_pope_popular.json").unlink()
    refused(
        r"none of its official files is there; expected coco_pope_popular.json or coco/coco_pope_pop", "pope", folder
    )
    assert len(get_benchmark("pope").items(folder, split="random")) == 6


@pytest.mark.parametrize(("name", "file"), [("gqa", GQA), ("vqav2", VQA), ("vqav2", GOLD), ("textvqa", TEXT)])
def test_invalid_json(name, file, sample):
    path = sample(name) / file
    path.write_text(path.read_text()[:-30])
    refused(rf"{re.escape(str(path))}: invalid JSON \(.*line \d+", name, path.parent)


def test_invalid_line_of_json(sample):
    file = sample("pope") / "coco" / "coco_pope_popular.json"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:2], "{oops", *lines[2:]]))
    refused(r"popular.json, line 3: invalid JSON", "pope", file)
    file.write_text("\n".join([*lines[:2], "", "[1]"]))
    refused(r"popular.json, line 4: found list, expected an object", "pope", file)
    file.write_bytes(b'{"text": "\xff"}')
    refused(r"popular.json: cannot be read as UTF-8", "pope", file)


def test_json_that_names_a_question_twice(sample):
    file = sample("gqa") / GQA
    file.write_text(file.read_text().replace('"201000001"', '"201000000"'))
    refused(r"invalid JSON \(the key '201000000' stands there twice\)", "gqa", file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.split("\n")[0],
            r"line 1, field question_id: 'existence/0001.jpg' has 1 question, expected 2",
        ),
        (lambda text: text + text, r"0001.txt, line 1, field question_id: 'existence/0001.jpg' has 4 questions"),
        (
            lambda text: text.replace("\t", " "),
            r"0001.txt, line 1: 1 fields, expected a question, a tab, and Yes or No",
        ),
        (lambda text: text.replace("Yes", "Sure"), r"0001.txt, line 1, field answer: found 'Sure', expected Yes or No"),
    ],
)
def test_questions_of_mme(change, message, sample):
    folder = sample("mme")
    (folder / PAIR).write_text(change((folder / PAIR).read_text()))
    refused(message, "mme", folder)


def test_files_of_mme(sample, tmp_path):
    folder = sample("mme")
    (folder / "existence" / "0001.jpg").unlink()
    refused(r"0001.txt, line 1, field image: '0001.jpg' does not exist in", "mme", folder)
    (folder / "existence").rename(folder / "being")
    refused(r"being: unknown category 'being'; expected existence, count", "mme", folder)
    (tmp_path / "empty").mkdir()
    refused(r"empty: none of its official files is there", "mme", tmp_path / "empty")


def field(row, column, value):
    """A change of one field of a TSV, row 0 being the header; no quoted field may come before it."""

    def change(text):
        lines = text.split("\n")
        fields = lines[row].split("\t")
        fields[lines[0].split("\t").index(column)] = value
        lines[row] = "\t".join(fields)
        return "\n".join(lines)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (field(1, "image", "iVBORw0KGgo*" * 9), r"20230712.tsv, row 1, field image: not base64, it holds '\*'"),
        (field(2, "image", "iVBORw0KGgoAA" * 7), r"row 2, field image: not base64, 91 characters are no multiple of 4"),
        (field(1, "image", ""), r"row 1, field image: missing, expected an image in base64"),
        (field(1, "image", "9"), r"row 1, field image: '9' is not the index of a row with an image"),
        (field(1, "index", "x"), r"row 1, field index: found 'x', expected a whole number"),
        (field(1, "index", "242"), r"row 2, field id: '242' was there before \(.*row 1\)"),
        (field(1, "question", ""), r"row 1, field question: found None, expected text"),
        (field(1, "answer", ""), r"row 1, field answer: missing, but other rows of the split have one"),
        (field(1, "answer", "D"), r"row 1, field answer: found 'D', expected one of: A, B"),
        (field(0, "image", "picture"), r"no column image; found: index, question, hint"),
        (field(0, "question", "query"), r"no column question; found: index, query"),
        (field(1, "hint", '"Look'), r"row 1: field 3 begins with a quote that does not end"),
        (lambda text: text.replace("\t", " ", 20), r"row 1: \d+ fields, expected 1|no column index"),
        (lambda text: text.replace("242\t", "242\t\t", 1), r"row 2: 15 fields, expected 14 \(index, question"),
        (lambda text: "", r"20230712.tsv: cannot be read as a table"),
    ],
)
def test_table_of_mmbench(change, message, sample):
    file = sample("mmbench") / TSV
    file.write_text(change(file.read_text()))
    refused(message, "mmbench", file)


def test_folder_of_mmbench(sample, tmp_path):
    folder = sample("mmbench")
    (folder / TSV).rename(folder / "mine_dev.tsv")
    refused(r"found mine_dev.tsv, mmbench_test_20230712.tsv; expected mmbench_dev_20230712.tsv or", "mmbench", folder)
    (folder / "mmbench_test_20230712.tsv").unlink()
    assert len(get_benchmark("mmbench").items(folder)) == 16  # the only table, and its name has the split
    refused(r"found mine_dev.tsv; expected mmbench_test", "mmbench", folder, split="test")


def test_images_that_are_none(sample):
    """Seen when they are opened: they are not read before."""
    folder = sample("gqa")
    (folder / "images" / "n100001.jpg").write_bytes(b"no image")
    items = get_benchmark("gqa").items(folder)
    with pytest.raises(UserError, match=r"question '201000000', field image: .*n100001.jpg cannot be read as an image"):
        items[0].images()
    (folder / "images" / "n100001.jpg").unlink()
    with pytest.raises(UserError, match=r"question '201000000', field image: .*n100001.jpg cannot be read"):
        items[0].images()
    file = sample("mmbench") / TSV
    file.write_text(field(1, "image", "AAAA" * 40)(file.read_text()))
    with pytest.raises(UserError, match=r"20230712.tsv, row 1, field image cannot be read as an image"):
        get_benchmark("mmbench").items(file)[0].images()


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name != "mmbench"])  # whose table holds the images
def test_answers_without_images(name, sample):
    folder = sample(name)
    whole = get_benchmark(name).items(folder)
    for file in [*folder.rglob("*.jpg"), *folder.rglob("*.png")]:
        file.unlink()
    items = get_benchmark(name).items(folder, images=False)
    if name == "mme":  # nothing says what an image's file was called
        suffixes = {Path(item.reference["image"]).suffix for item in items}
        assert suffixes == {".jpg"} and len(items) == len(whole)
    else:
        assert [item.reference for item in items] == [item.reference for item in whole]
    with pytest.raises(UserError, match=r"field image: '.*' does not exist in"):
        items[0].images()
    refused("field image: '.*' does not exist in", name, folder)


def test_only_the_images_that_a_limit_keeps_must_be_there(sample):
    folder = sample("gqa")
    kept = get_benchmark("gqa").items(folder, limit=1)
    for file in (folder / "images").iterdir():
        if str(file) != kept[0].pictures[0].path:
            file.unlink()
    assert get_benchmark("gqa").items(folder, limit=1) == kept


@pytest.mark.parametrize(
    ("name", "file", "values", "message"),
    [
        ("vqav2", "llava_vqav2_mscoco_test-dev2015.jsonl", {"image": "x.jpg"}, r"line 1, field image: 'x.jpg' does no"),
        ("vqav2", "llava_vqav2_mscoco_test-dev2015.jsonl", {"text": "Is?"}, r"line 1, field text: found 'Is\?', expec"),
        ("vqav2", "llava_vqav2_mscoco_test-dev2015.jsonl", {"text": None}, r"line 1, field text: found None, expected"),
        ("vqav2", "llava_vqav2_mscoco_test-dev2015.jsonl", {"question_id": None}, r"line 1, field question_id: found"),
        ("textvqa", "llava_textvqa_val_v051_ocr.jsonl", {"question_id": "x"}, r"line 1, field question_id: 'x' is not"),
        ("pope", "llava_pope_test.jsonl", {"question_id": 99}, r"line 1, field question_id: '99' is not in .*adversar"),
    ],
)  # fmt: skip
def test_question_files_of_llava(name, file, values, message, sample):
    path = sample(name) / file
    edit(path, set_first(**values))
    refused(message, name, path)


def test_llavas_prompt_needs_ocr_tokens(sample):
    folder = sample("textvqa")
    (folder / "llava_textvqa_val_v051_ocr.jsonl").unlink()
    refused(r"data\[0\], field ocr_tokens: missing, but LLaVA's prompt names them; expected", "textvqa", folder)
    assert len(get_benchmark("textvqa").items(folder, "lmms_eval")) == 11


def test_rows_without_answers_that_lmms_eval_scores(sample):
    """VQAv2 and TextVQA count 0 for them there."""
    for name, file in (("vqav2", GOLD), ("textvqa", TEXT)):
        folder = sample(name)
        edit(folder / file, set_first(answers=None))
        items = get_benchmark(name).items(folder, "lmms_eval")
        assert items[0].reference["answers"] is None and items[1].reference["answers"] is not None


def test_textvqa_of_lmms_eval_takes_any_number_of_answers(sample):
    folder = sample("textvqa")
    edit(folder / TEXT, set_first(answers=["a", "b"]))
    assert get_benchmark("textvqa").items(folder, "lmms_eval")[0].reference["answers"] == ["a", "b"]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_missing_files(name, tmp_path):
    refused(r"found no .tsv file|none of its official files is there; expected ", name, tmp_path)
    refused(rf"{name}: '.*nowhere' does not exist; expected a folder, a file or a hub id \(lmms-lab-enc", name,
            tmp_path / "nowhere")  # fmt: skip
    refused(rf"{name}: there is no split 'dress'; expected one of: ", name, tmp_path, split="dress")


def test_annotations_that_are_missing(sample):
    folder = sample("vqav2")
    (folder / GOLD).unlink()
    refused(r"none of its official files is there; expected v2_mscoco_val2014_annotations.json", "vqav2", folder)


# -- the hub's columns ------------------------------------------------------------------------------------------


def rename(old, new):
    def change(rows, features):
        if old in features:
            features[new] = features.pop(old)
            for row in rows:
                row[new] = row.pop(old)

    return change


def put(column, value, kind=None):
    def change(rows, features):
        if column in features:
            rows[1][column] = value
            features[column] = kind or features[column]

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gqa", rename("imageId", "image_id"), r"'testdev_balanced_instructions', split 'testdev': no column imageId;"),
        ("gqa", put("imageId", "n5"), r"row 1, field imageId: 'n5' is not in config 'testdev_balanced_images'"),
        ("vqav2", rename("question", "q"), r"split 'validation': no column question; found: question_id, image_id, "),
        ("scienceqa", rename("choices", "options"), r"no column choices; found: .*options.*; expected: image, questio"),
        ("textvqa", rename("ocr_tokens", "ocr"), r"no column ocr_tokens; found"),
        ("pope", rename("image", "picture"), r"split 'test': no column image; found"),
        ("pope", put("category", "usual"), r"row 1, field category: found 'usual', expected one of: adversarial, popu"),
        ("pope", put("image", None), r"row 1, field image: missing, expected an image"),
        ("mme", rename("category", "kind"), r"split 'test': no column category; found"),
        ("mme", put("question_id", "count/x.jpg"), r"field question_id: '.*' has 1 question, expected 2: MME is score"),
        ("mmbench", rename("L2-category", "l2"), r"config 'en', split 'dev': no column L2-category; found"),
        ("mmbench", put("answer", "Z"), r"split 'dev', row 1, field answer: found 'Z', expected one of: "),
    ],
)  # fmt: skip
def test_tables(name, change, message, hub_copy):
    refused(message, name, hub_copy(name, change=change))


def test_splits_of_a_table(hub_copy):
    refused(r"there is no split 'test'; found: testdev, validation", "vqav2", hub_copy("vqav2"), split="test")
    refused(r"there is no split 'test'; found: ", "vqav2", hub_copy("vqav2", saved=True), split="test")


def test_a_table_that_is_none(tmp_path):
    (tmp_path / "test-00000-of-00001.parquet").write_bytes(b"no parquet")
    refused(
        r"split 'test': cannot be read \(.*\); expected a hub id, a local folder of `datasets` or", "pope", tmp_path
    )


def test_images_of_a_table(hub_copy, tmp_path):
    folder = hub_copy("pope", change=put("image", {"bytes": b"no image", "path": None}))
    with pytest.raises(UserError, match=r"split 'test', row 1, field image cannot be read as an image"):
        get_benchmark("pope").items(folder)[1].images()
    file = tmp_path / "far.png"
    Image.new("RGB", (2, 2), "red").save(file)
    folder = hub_copy("pope", change=put("image", {"bytes": None, "path": str(file)}))
    item = get_benchmark("pope").items(folder)[1]
    assert item.images()[0].getpixel((0, 0)) == (255, 0, 0)
    file.unlink()
    with pytest.raises(UserError, match=r"split 'test', row 1, field image: .*far.png cannot be read"):
        item.images()
