"""``yopo-train score``: predictions of ours, of LLaVA's scripts and of lmms-eval, on the benchmarks' samples."""

import json
from pathlib import Path

import pytest

from yopo_train.cli import main
from yopo_train.errors import UserError
from yopo_train.evaluation.benchmarks import BENCHMARKS, get_benchmark
from yopo_train.evaluation.metrics import make_metric
from yopo_train.evaluation.rescore import rescore

SAMPLES = Path(__file__).parents[2] / "data" / "benchmarks"
NAMES = list(BENCHMARKS)
POPE_OFFSETS = {"adversarial": 0, "random": 10_000_000, "popular": 20_000_000}


def items_of(name, protocol="llava"):
    return get_benchmark(name).items(SAMPLES / name, protocol)


def gold_of(name, item) -> str:
    reference = item.reference
    if name in ("vqav2", "textvqa"):
        answers = [answer if isinstance(answer, str) else answer["answer"] for answer in reference["answers"]]
        return max(answers, key=answers.count)
    return "ABCDE"[reference["answer"]] if name == "scienceqa" else reference["answer"]


def some_answers(name, items) -> list[str]:
    """Most of them right."""
    return ["no idea" if place % 5 == 3 else gold_of(name, item) for place, item in enumerate(items)]


def llava_row(name, item, text) -> dict:
    """As the scripts in llava/eval write it."""
    key, reference = item.id, item.reference
    if name in ("vqav2", "mmbench"):
        key = int(key)
    elif name == "textvqa":
        key = reference["image_id"]
    elif name == "pope":
        category, number = item.id.split("/")
        key = POPE_OFFSETS[category] + int(number)
    elif name == "mme":
        key = reference["image"]
    more = {"answer_id": "x7", "model_id": "llava-v1.5", "metadata": {}}
    return {"question_id": key, "prompt": item.prompt, "text": text, **more}


def lmms_row(name, place, item, text) -> dict:
    return {
        "doc_id": place,
        "target": gold_of(name, item),
        "resps": [[text]],
        "filtered_resps": [text],
        "doc_hash": "1",
    }


def write(file, rows) -> str:
    file.write_text("".join(json.dumps(row) + "\n" if isinstance(row, dict) else row for row in rows), "utf-8")
    return str(file)


def expected_scores(name, protocol) -> dict[str, float]:
    items = items_of(name, protocol)
    references = [item.reference for item in items]
    metric = make_metric(name, protocol, references)
    metric.update(some_answers(name, items), references)
    return metric.compute()


@pytest.mark.parametrize("name", NAMES)
def test_answers_of_llavas_scripts(name, tmp_path):
    items = items_of(name)
    rows = [llava_row(name, item, text) for item, text in zip(items, some_answers(name, items), strict=True)]
    file = write(tmp_path / "answers.jsonl", reversed(rows))
    result = rescore(name, file, data=SAMPLES / name)
    assert result["scores"] == expected_scores(name, "llava")
    assert result["notes"] == [] and result["items"] == len(items)
    assert 0 < result["scores"][result["headline"]] < (2000 if name == "mme" else 100)


@pytest.mark.parametrize("name", NAMES)
def test_samples_of_lmms_eval(name, tmp_path):
    items = items_of(name, "lmms_eval")
    texts = some_answers(name, items)
    rows = [lmms_row(name, place, item, texts[place]) for place, item in enumerate(items)]
    file = write(tmp_path / "samples.jsonl", reversed(rows))
    result = rescore(name, file, "lmms_eval", data=SAMPLES / name)
    assert result["scores"] == expected_scores(name, "lmms_eval") and result["notes"] == []


@pytest.mark.parametrize("protocol", ["llava", "lmms_eval"])
@pytest.mark.parametrize("name", NAMES)
def test_our_predictions_need_no_data(name, protocol, tmp_path):
    items = items_of(name, protocol)
    texts = some_answers(name, items)
    rows = [
        {"id": item.id, "prediction": text, "prompt": item.prompt, "reference": item.reference, "score": 0.5}
        for item, text in zip(items, texts, strict=True)
    ]
    file = write(tmp_path / "ours.jsonl", rows)
    assert rescore(name, file, protocol)["scores"] == expected_scores(name, protocol)


DOCS = {
    "gqa": [{"id": "7", "imageId": "n1", "question": "Is it?", "answer": "yes"}] * 3,
    "pope": [{"id": "0", "question_id": "1", "question": "Is it?", "answer": "yes", "category": "random"}] * 3,
    "mmbench": [
        {"index": 5, "question": "Which?", "hint": "nan", "answer": "A", "A": "yes", "B": "no", "C": "nan", "D": "nan",
         "category": "ocr", "L2-category": "perception", "source": "x", "split": "dev"}
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", list(DOCS))
def test_older_samples_of_lmms_eval_hold_the_questions(name, tmp_path):
    docs = DOCS[name]
    rows = [
        {"doc_id": i, "doc": doc, "target": doc["answer"], "resps": [[doc["answer"]]]} for i, doc in enumerate(docs)
    ]
    result = rescore(name, write(tmp_path / "samples.jsonl", rows), "lmms_eval")
    assert result["scores"]["accuracy"] == (100 if name == "mmbench" else 1) and result["items"] == len(docs)


def test_an_array_of_answers(tmp_path):
    """VQAv2's results file, as it is uploaded."""
    items = items_of("vqav2")
    texts = some_answers("vqav2", items)
    rows = [{"question_id": int(item.id), "answer": text} for item, text in zip(items, texts, strict=True)]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    scores = rescore("vqav2", tmp_path / "results.json", data=SAMPLES / "vqav2", split="validation")["scores"]
    assert scores == expected_scores("vqav2", "llava")


def test_samples_of_some_questions(tmp_path):
    """lmms-eval's --limit: its numbers are those of the questions that were asked. LLaVA's script needs all."""
    items = items_of("gqa", "lmms_eval")
    rows = [lmms_row("gqa", i, items[i], "no idea" if i == 2 else gold_of("gqa", items[i])) for i in range(4)]
    result = rescore("gqa", write(tmp_path / "samples.jsonl", rows), "lmms_eval", SAMPLES / "gqa")
    assert (result["scores"]["accuracy"], result["items"]) == (0.75, 4)
    assert result["notes"] == ["the file has 4 of 12 questions, as with --limit of lmms-eval"]
    with pytest.raises(UserError, match="gqa: 8 of 12 items have no prediction"):
        rescore("gqa", write(tmp_path / "answers.jsonl", gqa_rows()[:4]), data=SAMPLES / "gqa")


def test_data_without_its_images(tmp_path):
    (tmp_path / "gqa").mkdir()
    file = "testdev_balanced_questions.json"
    (tmp_path / "gqa" / file).write_bytes((SAMPLES / "gqa" / file).read_bytes())
    answers = write(tmp_path / "answers.jsonl", gqa_rows())
    assert rescore("gqa", answers, data=tmp_path / "gqa")["scores"]["accuracy"] == 100


def test_reasoning_is_removed_where_asked(tmp_path):
    items = items_of("gqa", "lmms_eval")
    rows = [lmms_row("gqa", i, item, f"<think>no</think>{gold_of('gqa', item)}") for i, item in enumerate(items)]
    file = write(tmp_path / "samples.jsonl", rows)
    for tags, accuracy in ((False, 0), (True, 1)):
        scores = rescore("gqa", file, "lmms_eval", SAMPLES / "gqa", reasoning_tags=tags)["scores"]
        assert scores["accuracy"] == accuracy


# -- what LLaVA's scripts tolerate ---------------------------------------------------------------------------------
def gqa_rows() -> list[dict]:
    return [llava_row("gqa", item, gold_of("gqa", item)) for item in items_of("gqa")]


def test_of_two_answers_the_last_counts_and_strangers_do_not(tmp_path):
    rows = gqa_rows()
    wrong, stranger = rows[0] | {"text": "wrong"}, rows[0] | {"question_id": "nobody"}
    file = write(tmp_path / "answers.jsonl", [wrong, *rows, stranger])
    result = rescore("gqa", file, data=SAMPLES / "gqa")
    assert result["scores"]["accuracy"] == 100
    assert result["notes"] == [
        f"1 rows belong to no question and were left out, as in LLaVA's script; the first is {file}, line 14",
        f"1 rows replaced earlier answers, as in LLaVA's script; the first is {file}, line 2",
    ]


def test_vqav2_without_some_answers(tmp_path):
    """Its converter skips broken lines and uploads "" for questions without an answer."""
    rows = [llava_row("vqav2", item, gold_of("vqav2", item)) for item in items_of("vqav2")]
    file = write(tmp_path / "answers.jsonl", ['{"question_id": 1, "te\n', *rows[1:]])
    result = rescore("vqav2", file, data=SAMPLES / "vqav2")
    assert result["scores"]["missing"] == 1 and 0 < result["scores"]["accuracy"] < 100
    assert result["notes"] == [f"1 broken lines were left out, the first is {file}, line 1"]


# -- what nobody tolerates -----------------------------------------------------------------------------------------
def pope_rows() -> list[dict]:
    return [llava_row("pope", item, gold_of("pope", item)) for item in items_of("pope")]


BROKEN_FILES = [
    (lambda pope: [*pope[:2], "{broken\n"], r"answers.jsonl, line 3: invalid JSON"),
    (lambda pope: [*pope[:2], "[1]\n"], r"answers.jsonl, line 3: found list, expected an object"),
    (lambda pope: [], r"answers.jsonl: there are no predictions"),
    (lambda pope: [{"text": "yes"}], r"line 1, field id: found None, expected an id"),
    (lambda pope: [{"question_id": 1}], r"line 1: no answer, expected one of the fields prediction, text, answer"),
    (lambda pope: [{"question_id": 1, "text": 3}], r"line 1, field text: found 3, expected text"),
    (lambda pope: [{"doc_id": "1"}], r"line 1, field doc_id: found '1', expected a whole number"),
    (lambda pope: [{"doc_id": 1}], r"line 1: no answer, expected the field filtered_resps or resps"),
    (lambda pope: [{"doc_id": 99, "resps": ["yes"]}], r"line 1: doc_id 99 belongs to no question of the data"),
    (lambda pope: [{"doc_id": 0, "resps": ["yes"], "target": "no"}], r"field target: found 'no', row 0 has 'yes'"),
    (lambda pope: [*pope, pope[0] | {"question_id": 77}], r"line 19: id '77' belongs to no question of the data"),
    (lambda pope: [*pope, pope[2]], r"line 19: question 'adversarial/3' was answered before \(.*line 3\)"),
    (lambda pope: pope[:-1], r"answers.jsonl: pope: 1 of 18 items have no prediction, the first is"),
    (lambda pope: '[{"question_id": 1', r"answers.jsonl: invalid JSON"),
]


@pytest.mark.parametrize(("rows", "message"), BROKEN_FILES)
def test_one_line_says_what_is_wrong(rows, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        rescore("pope", write(tmp_path / "answers.jsonl", rows(pope_rows())), data=SAMPLES / "pope")
    assert "\n" not in str(error.value)


def test_no_file_and_no_references(tmp_path):
    with pytest.raises(UserError, match=r"nothing.jsonl: cannot be read"):
        rescore("pope", tmp_path / "nothing.jsonl")
    with pytest.raises(
        UserError, match=r"line 1: the row holds no reference; expected --data with the questions of pope"
    ):
        rescore("pope", write(tmp_path / "answers.jsonl", pope_rows()))
    only_strangers = [row | {"question_id": f"x{place}"} for place, row in enumerate(gqa_rows())]
    with pytest.raises(UserError, match=r"line 1: id 'x0' belongs to no question of the data \(12 such rows\)"):
        rescore("gqa", write(tmp_path / "answers.jsonl", only_strangers), data=SAMPLES / "gqa")


def test_an_unpaired_mme_question(tmp_path):
    items = items_of("mme")[:3]
    rows = [{"id": item.id, "prediction": "yes", "reference": item.reference} for item in items]
    with pytest.raises(UserError, match=r"ours.jsonl: mme: 1 questions about image '.*' of category '.*', expected 2"):
        rescore("mme", write(tmp_path / "ours.jsonl", rows))


def test_our_file_of_another_benchmark(tmp_path):
    """GQA's rules would take POPE's answers."""
    rows = [{"id": item.id, "prediction": "yes", "reference": item.reference} for item in items_of("pope")]
    file = write(tmp_path / "pope.jsonl", rows)
    (tmp_path / "pope.json").write_text('{"benchmark": "pope"}')
    with pytest.raises(UserError, match=r"pope.jsonl: holds answers to pope \(see pope.json\), expected gqa"):
        rescore("gqa", file)
    assert rescore("pope", file)["items"] == 18


# -- the command ---------------------------------------------------------------------------------------------------
def test_the_command_prints_a_table_or_json(tmp_path, capsys):
    file = write(tmp_path / "answers.jsonl", [row | {"text": "Yes, it is."} for row in pope_rows()])
    command = ["score", "--benchmark", "pope", "--predictions", file, "--data", str(SAMPLES / "pope")]
    main(command)
    printed = capsys.readouterr().out
    assert "pope, protocol llava, 18 questions" in printed
    first = next(line for line in printed.splitlines() if "f1" in line)
    assert "f1_mean" in first and f"{rescore('pope', file, data=SAMPLES / 'pope')['scores']['f1_mean']:.4f}" in first
    main([*command, "--protocol", "lmms_eval", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result == rescore("pope", file, "lmms_eval", SAMPLES / "pope")
    assert result["headline"] == "f1" and result["scores"]["f1"] == 0  # "Yes, it is." is not yes there


def test_the_command_says_what_is_wrong_in_one_line(tmp_path, capsys):
    file = write(tmp_path / "answers.jsonl", pope_rows())
    for arguments, message in (
        (["--benchmark", "pope", "--predictions", file], "the row holds no reference"),
        (["--benchmark", "mmmu", "--predictions", file], "mmmu"),
        (["--benchmark", "pope"], "predictions"),
    ):
        assert main(["score", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and error.count("\n") == 1
