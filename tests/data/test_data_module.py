"""The data module: which rows, in which order, in which batches."""

import contextlib
import inspect
import logging

import lightning as L
import pytest
import torch
from data_modules import Recorder, data_of, ids
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import ModelCheckpoint
from question_sets import make_row, write_split

from yopo_train.data import loader as module_of_loader
from yopo_train.data.module import VQADataModule
from yopo_train.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Train 20 rows of growing length, the other splits 5 or 6."""
    rows = [make_row(i, images=1, turns=1 + i % 4) for i in range(20)]
    write_split(tmp_path / "set", "train", rows)
    for split, number in (("calibration", 6), ("validation", 5), ("test", 5)):
        write_split(tmp_path / "set", split, [make_row(i + 100) | {"id": f"{split}-{i}"} for i in range(number)])
    return tmp_path / "set"


def test_each_split_has_its_loader(folder, processor):
    data = data_of(folder, processor)
    assert sorted(ids(data.train_dataloader())) == sorted(f"row-{i}" for i in range(20))
    assert ids(data.val_dataloader()) == [f"validation-{i}" for i in range(5)]
    assert ids(data.test_dataloader()) == ids(data.predict_dataloader()) == [f"test-{i}" for i in range(5)]
    assert ids(data.calibration_dataloader()) == [f"calibration-{i}" for i in range(6)]
    assert "labels" in next(iter(data.train_dataloader()))
    assert all("labels" not in batch for batch in data.calibration_dataloader())
    assert [len(batch["meta"]) for batch in data.test_dataloader()] == [3, 2]


def test_training_order_follows_from_seed_and_epoch(folder, processor, tmp_path):
    def train(seed: int, **kwargs) -> list[list[str]]:
        recorder = Recorder()
        off = (
            "logger",
            "enable_progress_bar",
            "enable_model_summary",
            "use_distributed_sampler",
            "enable_checkpointing",
        )
        trainer = L.Trainer(accelerator="cpu", max_epochs=2, limit_val_batches=0, **dict.fromkeys(off, False))
        trainer.fit(recorder, datamodule=data_of(folder, processor, seed=seed, **kwargs))
        return recorder.seen

    first = train(0)
    assert first == train(0) == train(0, num_workers=1), "workers or chance decide the order"
    assert first[0] != first[1] and sorted(first[0]) == sorted(first[1])
    assert first != train(1)


class Crash(Exception):
    """What ends a training in the test below."""


class Crashing(Recorder):
    """Raises in its batch number `at`, counted from 0 over all epochs."""

    def __init__(self, at: int | None = None) -> None:
        super().__init__()
        self.at, self.seen = at, [[]]  # Lightning does not begin a resumed epoch again

    def training_step(self, batch, batch_idx):
        if self.trainer.global_step == self.at:
            raise Crash
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches == 15  # makes the loader, as the schedule of `YopoModule` does
        return torch.optim.SGD(self.parameters(), lr=0.0)


def train_until_crash(module: Crashing, data, out, every: int, resume: str | None, **length: int) -> list[str]:
    """Ids of the rows seen; `out` / last.ckpt is of every so many steps or, for 100 of them, of the exception."""
    kept = ModelCheckpoint(
        out, "last", every_n_train_steps=every, save_on_exception=every == 100, enable_version_counter=False
    )
    off = ("logger", "enable_progress_bar", "enable_model_summary", "use_distributed_sampler")
    options = {"accelerator": "cpu", "limit_val_batches": 0, "callbacks": [kept]}
    with contextlib.suppress(Crash):
        L.Trainer(**options, **length, **dict.fromkeys(off, False)).fit(module, datamodule=data, ckpt_path=resume)
    return module.rows


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("every", "crash"),
    [(2, 3), (5, 5), (7, 8), (100, 2), (100, 5), (100, 7)],
    ids=["first epoch", "epoch border", "second epoch", "exception", "exception at the border", "exception later"],
)
def test_a_resumed_training_sees_the_rows_that_are_left(folder, processor, tmp_path, workers, every, crash):
    """20 rows in batches of 4, three epochs; resumed from the checkpoint of a step, or from that of the exception."""

    def train(module: Crashing, resume: str | None = None) -> list[str]:
        data = data_of(folder, processor, num_workers=workers)
        return train_until_crash(module, data, tmp_path, every, resume, max_epochs=3)

    whole = train(Crashing())
    assert len(whole) == 60
    for file in tmp_path.glob("*.ckpt"):
        file.unlink()
    train(Crashing(at=crash))
    done = min(every, crash)
    assert train(Crashing(), resume=str(tmp_path / "last.ckpt")) == whole[4 * done :]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_training_resumed_at_an_epoch_border_is_resumed_again(folder, processor, tmp_path, workers):
    """Lightning does not count the epoch as begun then, but with `max_steps` it goes on within it."""

    def train(module: Crashing, every: int, resume: str | None = None) -> list[str]:
        data = data_of(folder, processor, num_workers=workers)
        return train_until_crash(module, data, tmp_path, every, resume, max_steps=15)

    first = Crashing(at=6)
    train(first, every=5)
    last = str(tmp_path / "last.ckpt")
    second = Crashing(at=7)
    train(second, 100, last)
    found = first.rows[:20] + second.rows + train(Crashing(), 100, last)
    epochs = [found[start : start + 20] for start in (0, 20, 40)]
    assert len(found) == 60 and all(len(set(epoch)) == 20 for epoch in epochs), "a row is missing, or seen twice"
    assert second.rows[:4] == first.rows[20:24]


def test_workers_give_the_same_batches(folder, processor):
    alone, workers = (list(data_of(folder, processor, num_workers=number).test_dataloader()) for number in (0, 2))
    for one, other in zip(alone, workers, strict=True):
        assert one["meta"] == other["meta"]
        assert all(torch.equal(one[name], other[name]) for name in one if name != "meta")


def test_long_rows_are_dropped_whole_and_counted(folder, processor, caplog):
    data = data_of(folder, processor)
    lengths = {}
    for batch in data.train_dataloader():
        lengths |= dict(zip([m["id"] for m in batch["meta"]], batch["attention_mask"].sum(1).tolist(), strict=True))
    limit = sorted(lengths.values())[11]
    short = sorted(name for name, length in lengths.items() if length <= limit)
    assert 0 < len(short) < 20

    with caplog.at_level(logging.INFO):
        logging.getLogger("lightning.pytorch.utilities.rank_zero").propagate = True
        loader = data_of(folder, processor, max_length=limit).train_dataloader()
    assert sorted(ids(loader)) == short
    assert max(batch["attention_mask"].sum(dim=1).max() for batch in loader) == limit
    assert f"split 'train': dropped {20 - len(short)} of 20 rows longer than {limit} tokens" in caplog.text

    with pytest.raises(UserError, match=r"split 'train': every row is longer than data.max_length=50 tokens"):
        data_of(folder, processor, max_length=50).train_dataloader()
    assert len(ids(data_of(folder, processor, max_length=50).test_dataloader())) == 5, "questions are never dropped"


def test_limits_draw_by_the_seed(folder, processor):
    names = {
        "train_limit": "train",
        "validation_limit": "val",
        "test_limit": "test",
        "calibration_samples": "calibration",
    }
    for argument, name in names.items():
        drawn = [
            ids(getattr(data_of(folder, processor, seed=seed, **{argument: 2}), f"{name}_dataloader")())
            for seed in range(5)
        ]
        assert {len(found) for found in drawn} == {2}
        assert len({tuple(sorted(found)) for found in drawn}) > 1


def test_calibration_falls_back_to_training_rows(folder, processor):
    (folder / "calibration-00000-of-00001.parquet").unlink()
    data = data_of(folder, processor, calibration_samples=7)
    found = ids(data.calibration_dataloader())
    assert len(found) == 7 and set(found) <= {f"row-{i}" for i in range(20)}


def test_an_empty_calibration_set(folder, processor):
    write_split(folder, "calibration", [])
    with pytest.raises(UserError, match=r"split 'calibration' is empty, expected rows"):
        data_of(folder, processor).calibration_dataloader()
    with pytest.raises(UserError, match=r"^data.calibration_samples is 0, expected at least 1$"):
        data_of(folder, processor, calibration_samples=0)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("batch_size", 0), ("eval_batch_size", -1), ("max_length", 0), ("test_limit", 0), ("num_workers", -1)],
)
def test_numbers_out_of_range(folder, argument, value):
    with pytest.raises(UserError, match=rf"^data.{argument} is {value}, expected"):
        VQADataModule(str(folder), **{argument: value})


@pytest.mark.parametrize(("stage", "split"), [("fit", "validation"), ("validate", "validation"), ("test", "test")])
def test_setup_finds_bad_rows_before_anything_runs(folder, stage, split):
    write_split(folder, split, [make_row(0), make_row(1) | {"images": []}])
    with pytest.raises(UserError, match=rf"split '{split}', row 'row-1': 1 <image> placeholders but 0 images"):
        VQADataModule(str(folder)).setup(stage)


def test_fewer_rows_than_processes(folder, processor, monkeypatch):
    monkeypatch.setattr(module_of_loader, "rank_and_world", lambda: (0, 8))
    with pytest.raises(UserError, match=r"split 'test': 5 rows, expected at least one for each of 8 processes"):
        data_of(folder, processor).test_dataloader()


def test_every_argument_has_help():
    parser = ArgumentParser()
    parser.add_class_arguments(VQADataModule, "data")
    actions = {action.dest: action.help for action in parser._actions if action.dest.startswith("data.")}
    assert {f"data.{name}" for name in inspect.signature(VQADataModule).parameters} <= actions.keys()
    assert not [name for name, text in actions.items() if not text or "==SUPPRESS==" in text]
