"""Asking a model a whole benchmark: resumed, on one process and two, whatever the batches."""

import copy
import json
import shutil
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from toy_benchmark import MAX_NEW_TOKENS, ToyBenchmark, ToyItem, with_answers

from yopo_train.errors import UserError
from yopo_train.evaluation import runner
from yopo_train.evaluation.predictions import read_lines
from yopo_train.evaluation.runner import evaluate
from yopo_train.models import family_of
from yopo_train.plan import PruningPlan
from yopo_train.pruning import prune

ITEMS = 23


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The same sums in this process and in those that it forks, which must not use OpenMP's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def items(model, processor):
    drawn = [ToyItem(number) for number in range(ITEMS)]
    return with_answers(drawn, evaluate(model, processor, ToyBenchmark(), drawn, batch_size=4).predictions)


@pytest.fixture
def ask(model, processor, items):
    def call(file=None, **options):
        options = {"batch_size": 4, "file": file, **options}
        return evaluate(options.pop("model", model), processor, ToyBenchmark(), options.pop("items", items), **options)

    return call


@pytest.fixture(scope="module")
def whole(model, processor, items, tmp_path_factory):
    """One undisturbed evaluation: its result and its file."""
    file = tmp_path_factory.mktemp("whole") / "gqa.jsonl"
    return evaluate(model, processor, ToyBenchmark(), items, batch_size=4, file=file), file


@pytest.fixture
def begun(whole, tmp_path):
    """The same evaluation, ended when it had written so much of the file."""

    def write(*lines: bytes):
        shutil.copy(whole[1].with_suffix(".json"), tmp_path)
        (tmp_path / "gqa.jsonl").write_bytes(b"".join(lines))
        return tmp_path / "gqa.jsonl"

    return write


@pytest.fixture
def asked(monkeypatch):
    """Every batch that the model is asked: tokens of each prompt."""
    batches, generate = [], runner.generate_answers

    def spy(model, processor, batch, *args, **kwargs):
        batches.append(batch["attention_mask"].sum(dim=1).tolist())
        return generate(model, processor, batch, *args, **kwargs)

    monkeypatch.setattr(runner, "generate_answers", spy)
    return batches


def test_scores_and_predictions(ask, items, tmp_path, capsys):
    file = tmp_path / "predictions" / "gqa.jsonl"
    result = ask(file, progress="toy")
    assert result.headline == "accuracy"
    assert result.scores == {"accuracy": pytest.approx(100 * 12 / ITEMS)} == {"accuracy": result.score}
    assert (result.items, result.resumed, result.plan) == (ITEMS, 0, None)
    assert result.generation["max_new_tokens"] == MAX_NEW_TOKENS
    lines = [json.loads(line) for line in file.read_text("utf-8").split("\n")[:-1]]
    assert [line["id"] for line in lines] == [item.id for item in items], "in the benchmark's order"
    for line, item in zip(lines, items, strict=True):
        assert line["prediction"] == result.predictions[item.id] and line["prompt"] == item.prompt
        assert line["reference"] == item.reference and line["score"] == (item.number + 1) % 2
    assert {path.name for path in file.parent.iterdir()} == {"gqa.jsonl", "gqa.json"}
    assert json.dumps(result.as_dict())


def test_batches_hold_prompts_of_one_length_the_longest_first(ask, asked, items, processor):
    ask()
    assert [len(batch) for batch in asked] == [4, 4, 4, 4, 4, 3]
    lengths = [length for batch in asked for length in batch]
    assert lengths == sorted(lengths, reverse=True) and len(set(lengths)) > 5


def test_worker_processes_give_the_same(ask, whole):
    assert ask(num_workers=1).predictions == whole[0].predictions


@pytest.fixture
def unreadable(monkeypatch):
    """One item in the middle."""
    images = ToyItem.images

    def broken(item):
        if item.number == 5:
            raise UserError("toy.png: no image")
        return images(item)

    monkeypatch.setattr(ToyItem, "images", broken)


@pytest.mark.parametrize("num_workers", [0, 1], ids=["thread", "process"])
def test_a_reader_s_error_arrives_as_it_is_and_what_was_answered_stays(num_workers, ask, asked, unreadable, tmp_path):
    file = tmp_path / "gqa.jsonl"
    with pytest.raises(UserError) as error:
        ask(file, num_workers=num_workers)
    assert str(error.value) == "toy.png: no image"
    assert len(read_lines(file)) == sum(map(len, asked)) > 0


# -- after a kill -----------------------------------------------------------------------------------------------------
def killed_after(batches: int, monkeypatch):
    generate, done = runner.generate_answers, []

    def killed(*args, **kwargs):
        if len(done) == batches:
            raise KeyboardInterrupt
        done.append(1)
        return generate(*args, **kwargs)

    monkeypatch.setattr(runner, "generate_answers", killed)


def test_a_killed_evaluation_goes_on_where_it_was(ask, asked, whole, tmp_path, monkeypatch):
    file = tmp_path / "gqa.jsonl"
    with monkeypatch.context() as patch:
        killed_after(3, patch)
        with pytest.raises(KeyboardInterrupt):
            ask(file)
    assert len(read_lines(file)) == 12, "what came before is there"
    with file.open("ab") as opened:
        opened.write(b'{"id": "toy-22", "predic')
    asked.clear()
    result = ask(file)
    assert (len(asked), result.resumed, ask(file).resumed) == (3, 12, ITEMS)
    assert (result.scores, result.predictions) == (whole[0].scores, whole[0].predictions)
    assert len(asked) == 3 and file.read_bytes() == whole[1].read_bytes()


def test_a_batch_that_was_cut_in_two_is_asked_as_it_was(ask, asked, whole, begun):
    file = begun(*whole[1].read_bytes().splitlines(keepends=True)[:-1])
    result = ask(file)
    assert [len(batch) for batch in asked] in ([4], [3]) and result.resumed == ITEMS - 1
    assert result.predictions == whole[0].predictions and file.read_bytes() == whole[1].read_bytes()


def other_weights(model, items):
    model = copy.deepcopy(model)
    model.lm_head.weight.data *= 1.01
    return {"model": model}


def pruned(model, items):
    model = copy.deepcopy(model)
    dims = family_of(model).dims(model.config)
    ones = torch.ones(dims.layers, dims.heads, dtype=torch.bool)
    channels = torch.ones(dims.layers, dims.intermediate, dtype=torch.bool)
    return {"model": prune(model, PruningPlan(dims, ones, channels, 1, dims.layers))}


OTHERS = {
    "weights": other_weights,
    "plan": pruned,
    "protocol": lambda model, items: {"protocol": "lmms_eval"},
    "prompts": lambda model, items: {"items": items[:-1]},
    "length": lambda model, items: {"max_new_tokens": 1},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_predictions_of_something_else_are_set_aside(other, model, items, ask, tmp_path):
    file, items = tmp_path / "gqa.jsonl", items[:4]
    ask = partial(ask, items=items)
    ask(file)
    before, about = file.read_bytes(), file.with_suffix(".json").read_bytes()
    assert ask(file, **other(model, items)).resumed == 0
    assert (tmp_path / "gqa.old-1.jsonl").read_bytes() == before
    assert (tmp_path / "gqa.old-1.json").read_bytes() == about
    assert file.with_suffix(".json").read_bytes() != about
    assert ask(file).resumed == 0 and (tmp_path / "gqa.old-2.jsonl").is_file()


def test_a_file_that_nobody_describes_is_set_aside(ask, tmp_path):
    file = tmp_path / "gqa.jsonl"
    file.write_text('{"id": "toy-0", "prediction": "somebody\'s"}\n')
    assert ask(file).resumed == 0
    assert "somebody's" in (tmp_path / "gqa.old-1.jsonl").read_text()


def test_a_damaged_line_is_named(ask, whole, begun):
    first, _, *others = whole[1].read_bytes().splitlines(keepends=True)
    with pytest.raises(UserError, match=r"gqa\.jsonl: line 2 is no prediction"):
        ask(begun(first, b'{"id": 3}\n', *others))


# -- several processes ------------------------------------------------------------------------------------------------
def on_ranks(world: int, tmp_path, work) -> list:
    """What each of so many forked processes gets from ``work(rank)``."""
    queue, store = mp.get_context("fork").SimpleQueue(), tmp_path / f"store-{world}-{len(list(tmp_path.iterdir()))}"

    def child(rank: int) -> None:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
        try:
            queue.put((rank, work(rank)))
        finally:
            dist.destroy_process_group()

    mp.start_processes(child, nprocs=world, start_method="fork")
    return [found for _, found in sorted((queue.get() for _ in range(world)), key=lambda pair: pair[0])]


def test_two_ranks_count_each_item_once(ask, whole, tmp_path):
    """23 items, 6 batches of 4 and 3: an odd share for one of them."""
    found = on_ranks(2, tmp_path, lambda rank: ask(tmp_path / "two.jsonl").as_dict() | {"seconds": 0})
    assert found[0] == found[1] == whole[0].as_dict() | {"seconds": 0}
    assert (tmp_path / "two.jsonl").read_bytes() == whole[1].read_bytes()
    assert not list(tmp_path.glob("*.rank*"))


def test_what_one_rank_cannot_read_is_said_by_both(ask, unreadable, tmp_path):
    """The command line prints the first rank's error only. What was answered is kept."""

    def work(rank: int) -> str:
        with pytest.raises(UserError) as error:
            ask(tmp_path / "gqa.jsonl")
        return str(error.value)

    assert on_ranks(2, tmp_path, work) == ["toy.png: no image"] * 2
    assert sum(len(read_lines(part)) for part in tmp_path.glob("gqa.jsonl*")) >= ITEMS // 2


def test_more_ranks_than_batches(ask, items, tmp_path):
    expected = ask(items=items[:3]).scores
    assert [r["scores"] for r in on_ranks(2, tmp_path, lambda rank: ask(items=items[:3]).as_dict())] == [expected] * 2


def test_what_killed_ranks_left_is_taken_over(ask, whole, begun, tmp_path):
    lines = whole[1].read_bytes().splitlines(keepends=True)
    file = begun(*lines[:8])
    (tmp_path / "gqa.jsonl.rank1").write_bytes(b"".join(lines[8:20]) + lines[20][:9])
    result = ask(file)
    assert result.resumed == 20 and result.predictions == whole[0].predictions
    assert file.read_bytes() == whole[1].read_bytes() and not list(tmp_path.glob("*.rank*"))


def test_a_thousand_items_on_one_and_two_ranks(model, processor, tmp_path):
    """Those of even number are right by what one rank answers."""
    items = [ToyItem(number, every=50) for number in range(1000)]
    ask = partial(evaluate, model, processor, ToyBenchmark(), batch_size=64, max_new_tokens=1)
    one = ask(items)
    items = with_answers(items, one.predictions)

    two = on_ranks(2, tmp_path, lambda rank: ask(items, file=tmp_path / "two.jsonl"))
    assert [(result.scores, result.predictions) for result in two] == [({"accuracy": 50.0}, one.predictions)] * 2
    assert [line["id"] for line in read_lines(tmp_path / "two.jsonl")] == [item.id for item in items]


# -- what is asked, and what cannot be --------------------------------------------------------------------------------
def test_without_public_answers_there_is_no_score(ask, items, tmp_path):
    hidden = [ToyItem(item.number, None) for item in items]
    result = ask(tmp_path / "gqa.jsonl", items=hidden)
    assert result.score is None and result.scores == {} and len(result.predictions) == ITEMS
    assert "score" not in read_lines(tmp_path / "gqa.jsonl")[0]


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"items": []}, "gqa: no items"),
        ({"items": [ToyItem(1), ToyItem(1)]}, "two items have the id 'toy-1'"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
    ids=["none", "twice", "batch"],
)
def test_bad_input(wrong, said, ask):
    with pytest.raises(UserError, match=said):
        ask(**wrong)
