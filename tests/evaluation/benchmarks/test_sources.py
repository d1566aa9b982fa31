"""The same items come out of the official files, of a folder in the hub's layout, and of LLaVA's question files."""

import json
import pickle

import pytest

from yopo_train.evaluation.benchmarks import BENCHMARKS, PROTOCOLS, get_benchmark

SPLITS = [
    *((name, None) for name in BENCHMARKS),
    ("vqav2", "testdev"),
    ("scienceqa", "test_full"),
    ("pope", "popular"),
    ("mmbench", "test"),
]
SHORT = "Answer the question using a single word or phrase."


def comparable(items, with_id=True):
    """Prompt, reference and pixels of each item."""
    rows = []
    for item in items:
        reference = {name: value for name, value in item.reference.items() if with_id or name != "id"}
        rows.append((item.prompt, reference, [(image.size, image.tobytes()) for image in item.images()]))
    return rows


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_hub_columns_give_the_same_items(name, split, samples, hub_copy):
    benchmark, folder = BENCHMARKS[name], hub_copy(name)
    for protocol in PROTOCOLS:
        raw = benchmark.items(samples / name, protocol, split)
        table = benchmark.items(folder, protocol, split)
        with_id = name != "scienceqa"  # whose rows have no id on the hub
        assert comparable(table, with_id) == comparable(raw, with_id)
        assert [item.has_image for item in table] == [item.has_image for item in raw]


@pytest.mark.parametrize("name", ["gqa", "pope", "mmbench"])  # two configs; the default one; one by name
def test_what_save_to_disk_wrote_gives_the_same_items(name, samples, hub_copy):
    benchmark = BENCHMARKS[name]
    assert comparable(benchmark.items(hub_copy(name, saved=True))) == comparable(benchmark.items(samples / name))


def test_items_have_an_id_and_a_reference_of_plain_json(samples):
    for name, benchmark in BENCHMARKS.items():
        items = benchmark.items(samples / name)
        assert 8 <= len(items) <= 20 and benchmark.has_answers(items)
        assert len({item.id for item in items}) == len(items)
        for item in items:
            assert item.reference["id"] == item.id
            assert json.loads(json.dumps(item.reference)) == item.reference
            assert item.images()[0].mode == "RGB"


def test_items_can_be_sent_to_other_processes(samples, hub_copy):
    for source in (samples / "mmbench", hub_copy("mmbench")):
        items = get_benchmark("mmbench").items(source, limit=2)
        assert comparable(pickle.loads(pickle.dumps(items))) == comparable(items)


def test_scienceqa_knows_what_has_no_image(samples):
    items = get_benchmark("scienceqa").items(samples / "scienceqa", split="test_full")
    assert [item.id for item in items if not item.has_image] == ["4", "8", "12"]
    assert all(item.reference["image"] == item.has_image == bool(item.images()) for item in items)


@pytest.mark.parametrize("category", ["adversarial", "popular", "random"])
def test_one_label_file_of_pope(category, samples):
    file = samples / "pope" / "coco" / f"coco_pope_{category}.json"
    items = get_benchmark("pope").items(file)
    assert [item.id for item in items] == [f"{category}/{i}" for i in range(1, 7)]
    assert comparable(items) == comparable(get_benchmark("pope").items(samples / "pope", split=category))


@pytest.mark.parametrize(
    ("name", "file", "split"),
    [
        ("gqa", "testdev_balanced_questions.json", None),
        ("vqav2", "v2_OpenEnded_mscoco_val2014_questions.json", None),
        ("scienceqa", "problems.json", None),
        ("textvqa", "TextVQA_0.5.1_val.json", None),
        ("mmbench", "mmbench_test_20230712.tsv", "test"),
    ],
)
def test_a_file_is_as_good_as_its_folder(name, file, split, samples):
    benchmark = get_benchmark(name)
    assert comparable(benchmark.items(samples / name / file)) == comparable(
        benchmark.items(samples / name, split=split)
    )


def write_llava_file(path, items, ids, images):
    rows = zip(items, ids, images, strict=True)
    path.write_text(
        "".join(
            json.dumps({"question_id": name, "image": image, "text": item.prompt, "category": "default"}) + "\n"
            for item, name, image in rows
        )
    )


def llava_gqa(folder, items):
    gold = json.loads((folder / "testdev_balanced_questions.json").read_text())
    images = [f"{gold[item.id]['imageId']}.jpg" for item in items]
    write_llava_file(folder / "llava_gqa_testdev_balanced.jsonl", items, [item.id for item in items], images)
    return "llava_gqa_testdev_balanced.jsonl"


def llava_mme(folder, items):
    keys = [item.reference["image"] for item in items]
    write_llava_file(folder / "llava_mme.jsonl", items, keys, keys)
    return "llava_mme.jsonl"


def llava_scienceqa(folder, items):
    rows = []
    for item in items:
        image = {"image": f"{item.id}/image.png"} if item.has_image else {}
        human = {"from": "human", "value": "<image>\n" * item.has_image + item.prompt}
        rows.append({"id": item.id, **image, "conversations": [human, {"from": "gpt", "value": "?"}]})
    (folder / "llava_test_CQM-A.json").write_text(json.dumps(rows))
    return "llava_test_CQM-A.json"


@pytest.mark.parametrize(
    ("name", "split", "write"),
    [
        ("gqa", None, llava_gqa),
        ("mme", None, llava_mme),
        ("scienceqa", None, llava_scienceqa),
        ("scienceqa", "test_full", llava_scienceqa),
        ("vqav2", "testdev", lambda folder, items: "llava_vqav2_mscoco_test-dev2015.jsonl"),
        ("textvqa", None, lambda folder, items: "llava_textvqa_val_v051_ocr.jsonl"),
    ],
)
def test_llava_question_files_join_the_gold_files(name, split, write, sample):
    benchmark, folder = get_benchmark(name), sample(name)
    raw = benchmark.items(folder, split=split)
    file = folder / write(folder, benchmark.items(folder, split="test_full") if name == "scienceqa" else raw)
    assert comparable(benchmark.items(file, split=split)) == comparable(raw)
    theirs = [item.prompt for item in benchmark.items(file, "lmms_eval", split)]
    assert theirs == [item.prompt for item in benchmark.items(folder, "lmms_eval", split)]


def test_llava_file_of_pope_has_its_own_order_and_ids(samples):
    items = get_benchmark("pope").items(samples / "pope" / "llava_pope_test.jsonl")
    order = [item.id.split("/")[0] for item in items]
    assert order == ["adversarial"] * 6 + ["random"] * 6 + ["popular"] * 6
    raw = {item.id: item for item in get_benchmark("pope").items(samples / "pope")}
    assert comparable(items) == comparable([raw[item.id] for item in items])


def test_llava_files_alone_have_no_answers(sample):
    for name, gold in (("gqa", "testdev_balanced_questions.json"), ("textvqa", "TextVQA_0.5.1_val.json")):
        folder, benchmark = sample(name), get_benchmark(name)
        raw = benchmark.items(folder)
        if name == "gqa":
            llava_gqa(folder, raw)
        (folder / gold).unlink()
        items = benchmark.items(folder)
        assert [item.prompt for item in items] == [item.prompt for item in raw]
        assert not benchmark.has_answers(items)


def test_textvqa_prompts_take_ocr_tokens_from_rosetta(sample):
    folder = sample("textvqa")
    raw = get_benchmark("textvqa").items(folder)
    tokens = {item.reference["image_id"]: item.prompt.split("\n")[1].split(": ", 1)[1].split(", ") for item in raw}
    (folder / "llava_textvqa_val_v051_ocr.jsonl").unlink()
    rows = [{"image_id": name, "ocr_tokens": found if found != [""] else []} for name, found in tokens.items()]
    (folder / "TextVQA_Rosetta_OCR_v0.2_val.json").write_text(json.dumps({"data": rows}))
    assert comparable(get_benchmark("textvqa").items(folder)) == comparable(raw)


def test_textvqa_takes_the_last_of_two_equal_questions_as_llava(sample):
    folder = sample("textvqa")
    file = folder / "TextVQA_0.5.1_val.json"
    data = json.loads(file.read_text())
    data["data"].append(data["data"][0] | {"question_id": 1, "answers": ["last"] * 10})
    file.write_text(json.dumps(data))
    items = get_benchmark("textvqa").items(folder / "llava_textvqa_val_v051_ocr.jsonl")
    assert items[0].reference["answers"] == ["last"] * 10


def test_mmbench_image_may_be_the_index_of_another_row(sample):
    file = sample("mmbench") / "mmbench_dev_20230712.tsv"
    raw = comparable(get_benchmark("mmbench").items(file))
    header, *rows = file.read_text().split("\n1000241\t")
    fields = rows[0].split("\n")[0].split("\t")
    shorter = "\t".join("241" if len(field) > 64 else field for field in fields)
    file.write_text(header + "\n1000241\t" + "\n".join([shorter, *rows[0].split("\n")[1:]]))
    assert comparable(get_benchmark("mmbench").items(file)) == raw


def test_gqa_leaves_out_what_is_not_balanced(sample):
    folder = sample("gqa")
    file = folder / "testdev_balanced_questions.json"
    questions = json.loads(file.read_text())
    next(iter(questions.values()))["isBalanced"] = False
    file.write_text(json.dumps(questions))
    assert len(get_benchmark("gqa").items(folder)) == 11


def test_mme_folder_may_lie_within_llavas(samples, tmp_path):
    (tmp_path / "MME_Benchmark_release_version").symlink_to(samples / "mme")
    assert comparable(get_benchmark("mme").items(tmp_path)) == comparable(get_benchmark("mme").items(samples / "mme"))
