"""The files that the servers take, literally."""

import csv
import json

import pytest

from yopo_train.errors import UserError
from yopo_train.evaluation.benchmarks import get_benchmark
from yopo_train.evaluation.benchmarks import mmbench_upload as upload


def test_vqav2_answers_pass_the_evalai_processor(samples, tmp_path):
    benchmark = get_benchmark("vqav2")
    items = benchmark.items(samples / "vqav2", split="testdev")
    assert not benchmark.has_answers(items)
    answers = {items[0].id: "The red, Circle.", items[1].id: "two", items[2].id: "It isnt\n"}
    path = benchmark.submission(tmp_path / "new" / "vqav2.json", items, answers)
    assert json.loads(path.read_text()) == [
        {"question_id": 9101000, "answer": "red circle"},
        {"question_id": 9101001, "answer": "2"},
        {"question_id": 9102000, "answer": "it isn't"},
        {"question_id": 9102001, "answer": ""},  # not answered
    ]


@pytest.mark.parametrize("official", [True, False])
def test_vqav2_server_wants_all_questions_of_the_test_set(official, samples, tmp_path):
    benchmark = get_benchmark("vqav2")
    items = benchmark.items(samples / "vqav2", split="testdev")
    ids = [5, *(int(item.id) for item in reversed(items))]
    if official:
        whole = tmp_path / "v2_OpenEnded_mscoco_test2015_questions.json"
        whole.write_text(json.dumps({"questions": [{"question_id": name} for name in ids]}))
    else:
        whole = tmp_path / "llava_vqav2_mscoco_test2015.jsonl"
        whole.write_text("".join(json.dumps({"question_id": name}) + "\n" for name in ids))
    path = benchmark.submission(tmp_path / "vqav2.json", items, {items[0].id: "yes"}, questions=whole)
    rows = json.loads(path.read_text())
    assert [row["question_id"] for row in rows] == ids
    assert [row["answer"] for row in rows] == ["", "", "", "", "yes"]


def test_textvqa(samples, tmp_path):
    benchmark = get_benchmark("textvqa")
    items = benchmark.items(samples / "textvqa", limit=2)
    path = benchmark.submission(tmp_path / "textvqa.json", items, {items[0].id: "A Stop, sign"})
    first, second = (int(item.id) for item in items)
    assert json.loads(path.read_text()) == [
        {"question_id": first, "answer": "stop sign"},
        {"question_id": second, "answer": ""},
    ]


def test_mmbench_test_has_no_answer_column(samples, tmp_path):
    benchmark = get_benchmark("mmbench")
    items = benchmark.items(samples / "mmbench", split="test")
    assert not benchmark.has_answers(items)
    path = benchmark.submission(tmp_path / "mmbench.tsv", items, {items[0].id: "A.\tred", items[2].id: "B"})
    with path.open(newline="") as file:
        rows = list(csv.reader(file, dialect="excel-tab"))
    assert rows[0] == ["index", "question", "A", "B", "C", "D", "prediction", "split"]
    for row, item, prediction in zip(rows[1:], items, ("A.\tred", "", "B"), strict=True):
        reference = item.reference
        options = [reference["options"][letter] for letter in "ABCD"]
        assert row == [item.id, reference["question"], *options, prediction, "test"]


def test_mmbench_dev_as_llavas_converter(samples, tmp_path):
    benchmark = get_benchmark("mmbench")
    items = benchmark.items(samples / "mmbench")
    path = benchmark.submission(tmp_path / "mmbench.tsv", items, {})
    header, first, *_ = path.read_text().split("\n")
    assert header == "index\tquestion\tA\tB\tC\tD\tprediction\tanswer\tsplit"
    options = items[0].reference["options"]
    assert list(options) == ["A", "B"]
    assert first == f"241\t{items[0].reference['question']}\t{options['A']}\t{options['B']}\t\t\t\t" + (
        f"{items[0].reference['answer']}\tdev"
    )


def test_mmbench_excel_needs_openpyxl(samples, tmp_path, monkeypatch):
    benchmark = get_benchmark("mmbench")
    items = benchmark.items(samples / "mmbench", split="test")
    monkeypatch.setattr(upload, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"mmbench\.xlsx: Excel files need openpyxl"):
        benchmark.submission(tmp_path / "mmbench.xlsx", items, {})
    assert not list(tmp_path.iterdir())


def test_mmbench_excel(samples, tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    benchmark = get_benchmark("mmbench")
    items = benchmark.items(samples / "mmbench", split="test")
    path = benchmark.submission(tmp_path / "mmbench.xlsx", items, {items[0].id: "A"})
    rows = list(openpyxl.load_workbook(path).active.values)
    assert rows[0] == ("index", "question", "A", "B", "C", "D", "prediction", "split")
    assert [row[6] for row in rows[1:]] == ["A", None, None]
    assert rows[1][0] == items[0].reference["index"]


@pytest.mark.parametrize("name", ["gqa", "scienceqa", "pope", "mme"])
def test_public_answers_need_no_submission(name, samples, tmp_path):
    with pytest.raises(UserError, match=f"{name}: there is no submission file"):
        get_benchmark(name).submission(tmp_path / "file.json", get_benchmark(name).items(samples / name), {})
