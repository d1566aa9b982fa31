"""What one sees of a training, and what stops it."""

import csv
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_resume import At, logged, toy_module, train

from yopo_train.cli import main
from yopo_train.errors import UserError
from yopo_train.pipeline import TrainerFactory
from yopo_train.pipeline.loggers import MetricsFile, run_loggers
from yopo_train.pipeline.watch import TrainingStopped, Watch, WatchOptions
from yopo_train.run_folder import RunFolder


# -- what is logged ---------------------------------------------------------------------------------------------------
def test_everything_is_logged_at_the_interval_and_scores_on_the_same_axis(tmp_path):
    added = CSVLogger(tmp_path / "more", name="", version="")
    train(tmp_path, logger=added, log_every_n_steps=2)
    names = ["train/loss", "train/grad_norm", "train/lr", "train/tokens_per_s", "train/visual_tokens_per_s"]
    rows = logged(tmp_path, *names, "train/data_wait", "train/memory_gib")
    assert [row[0] for row in rows] == ["1", "3", "5", "7"]
    for _, *values in rows:
        loss, norm, rate, tokens, visual, wait, memory = map(float, values)
        assert loss > 0 and norm > 0 and 0 < rate <= 1e-2 and memory > 0.01 and 0 <= wait < 1
        assert visual / tokens == pytest.approx(16 / 23), "two of seven text tokens stand before the image"
    assert [row[0] for row in logged(tmp_path, "val/score")] == ["2", "5"]
    with (tmp_path / "more" / "metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file) if row["train/loss"]] == ["1", "3", "5", "7"]
    events = EventAccumulator(str(tmp_path / "logs")).Reload()
    assert [event.step for event in events.Scalars("train/visual_tokens_per_s")] == [1, 3, 5, 7]


def test_the_loss_of_a_step_is_that_of_all_its_batches(tmp_path):
    module = toy_module(lora_dropout=0.0, lr=1e-9)
    train(tmp_path / "one", module=module, max_steps=4, limit_val_batches=0)
    module = toy_module(lora_dropout=0.0, lr=1e-9)
    train(tmp_path / "two", module=module, max_steps=2, limit_val_batches=0, accumulate_grad_batches=2)
    single = [float(loss) for _, loss in logged(tmp_path / "one", "train/loss")]
    double = [float(loss) for _, loss in logged(tmp_path / "two", "train/loss")]
    assert double == pytest.approx([(single[0] + single[1]) / 2, (single[2] + single[3]) / 2], rel=1e-4)


def test_loggers_are_added_to_the_runs_own(tmp_path):
    run, more = RunFolder(tmp_path), CSVLogger(tmp_path)
    assert [type(logger).__name__ for logger in run_loggers(run)] == ["MetricsFile", "EventFiles"]
    assert run_loggers(run, more)[2:] == run_loggers(run, [more])[2:] == [more]
    assert len(run_loggers(run, True)) == 2 and run_loggers(run, False) == []


def test_loggers_that_are_added_know_the_configuration(tmp_path):
    added = CSVLogger(tmp_path / "more")
    settings = {"logger": added, "accelerator": "cpu", "enable_progress_bar": False}
    secret = {"class_path": "CometLogger", "init_args": {"api_key": "secret"}}
    config = {"model": {"base": "org/base"}, "trainer": {"max_steps": 3, "logger": secret}}
    TrainerFactory(RunFolder(tmp_path), settings, config=config).for_reading("score")
    assert added.experiment.hparams == {"model": {"base": "org/base"}, "trainer": {"max_steps": 3}}


def test_a_logger_that_is_not_installed_is_one_line(config, capsys):
    pytest.importorskip("lightning")
    try:
        import wandb  # noqa: F401
    except ImportError:
        assert main(["fit", "--config", str(config), "--trainer.logger=WandbLogger"]) == 2
        error = capsys.readouterr().err
        assert "wandb" in error and len(error.splitlines()) == 1


# -- what is done again is logged once --------------------------------------------------------------------------------
def metrics_file(folder) -> MetricsFile:
    return run_loggers(RunFolder(folder))[0]


def test_lines_of_steps_that_are_done_again_are_taken_out(tmp_path):
    file = metrics_file(tmp_path)
    file.log_metrics({"base/accuracy": 0.5, "epoch": 0}, step=0)
    for step in range(4):
        file.log_metrics({"train/loss": 1.0 + step, "epoch": 0}, step=step)
    file.log_metrics({"val/score": 2.0, "epoch": 0}, step=1)
    file.save()
    again = metrics_file(tmp_path)
    again.rewind(2)
    assert logged(tmp_path, "train/loss", "val/score") == [("0", "1.0", ""), ("1", "2.0", ""), ("1", "", "2.0")]
    again.rewind(0)
    assert logged(tmp_path, "train/loss", "val/score") == []
    assert logged(tmp_path, "base/accuracy") == [("0", "0.5")]


def test_lines_of_the_last_step_stay_unless_they_are_written_again(tmp_path):
    """Benchmarks have the number of steps done, a validation that of the step before it."""
    file = metrics_file(tmp_path)
    for name, step in (
        ("train/loss", 1),
        ("bench/pope/f1", 2),
        ("val/score", 1),
        ("train/loss", 2),
        ("bench/pope/f1", 3),
    ):
        file.log_metrics({name: 1.0, "epoch": 0}, step=step)
    file.save()
    again, names = metrics_file(tmp_path), ("train/loss", "bench/pope/f1", "val/score")
    again.rewind(2)
    assert logged(tmp_path, *names) == [("1", "1.0", "", ""), ("2", "", "1.0", ""), ("1", "", "", "1.0")]
    again.rewind(2, validates=True)
    assert logged(tmp_path, *names) == [("1", "1.0", "", ""), ("2", "", "1.0", "")]


@pytest.mark.parametrize("torn", ["1,", "1,0,2.", "1,0,2.5", '1,0,"2'])
def test_half_a_line_of_a_killed_process_is_taken_out(torn, tmp_path):
    file = metrics_file(tmp_path)
    file.log_metrics({"train/loss": 1.5, "epoch": 0}, step=0)
    file.save()
    path = tmp_path / "logs" / "metrics.csv"
    path.write_text(path.read_text() + torn)
    again = metrics_file(tmp_path)
    again.rewind(2)
    again.log_metrics({"train/loss": 3.5, "epoch": 0}, step=2)
    again.save()
    assert logged(tmp_path, "train/loss") == [("0", "1.5"), ("2", "3.5")]


def test_tensorboard_leaves_out_what_is_done_again(tmp_path):
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(tmp_path, At("on_before_optimizer_step", 5, fail), every=2, limit_val_batches=0)
    train(tmp_path, limit_val_batches=0)
    events = EventAccumulator(str(tmp_path / "logs")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(8))


# -- what stops it ----------------------------------------------------------------------------------------------------
def test_a_loss_that_is_no_number_stops_before_the_weights_change(tmp_path):
    module = toy_module()
    objective, calls = module.objective, []

    def broken(model, batch):
        sums = objective(model, batch)
        calls.append([meta["id"] for meta in batch["meta"]])
        return sums if len(calls) != 6 else replace(sums, total=sums.total * math.nan)

    module.objective = broken
    with pytest.raises(TrainingStopped, match="training stopped in step 5, counted from 0: the loss is nan") as error:
        train(tmp_path, module=module, every=2, limit_val_batches=0)
    assert f"rows of that step: {', '.join(calls[-1])}." in str(error.value)
    assert all(weight.isfinite().all() for weight in module.trainable().values())
    checkpoint = torch.load(RunFolder(tmp_path).last_checkpoint, weights_only=True)
    assert checkpoint["global_step"] == 4


def seen(watch: Watch, losses: list[float], norm: float = 1.0) -> None:
    """As on a device that is read before a checkpoint only."""
    plugin = SimpleNamespace(scaler=None)
    trainer = SimpleNamespace(world_size=1, precision_plugin=plugin)
    watch._open += [(step, [f"row-{step}"], torch.tensor([loss, norm])) for step, loss in enumerate(losses)]
    watch.on_save_checkpoint(trainer, None, {"callbacks": {}})


def test_steps_that_were_not_looked_at_keep_a_checkpoint_from_being_written():
    with pytest.raises(TrainingStopped, match=r"stopped in step 2, .* rows of that step: row-2"):
        seen(Watch(WatchOptions()), [1.0, 1.0, math.inf, 1.0])
    with pytest.raises(TrainingStopped, match="the gradient norm inf"):
        seen(Watch(WatchOptions()), [1.0], norm=math.inf)


def test_a_loss_that_explodes():
    falling = [3.0 * 0.9**step for step in range(30)]
    with pytest.raises(TrainingStopped, match=r"the loss explodes: .* more than 10 times the lowest"):
        seen(Watch(WatchOptions()), [*falling, *[12.0] * 10])
    seen(Watch(WatchOptions()), [*falling, 2.0, *falling[-3:]])  # one hard batch
    seen(Watch(WatchOptions()), [0.001] * 20 + [0.5] * 5)  # nothing to speak of
    seen(Watch(WatchOptions(max_loss_ratio=None)), [*falling, *[1e6] * 10])


def test_the_running_mean_goes_on_after_a_resume():
    watch, other = Watch(WatchOptions()), Watch(WatchOptions())
    seen(watch, [2.0, 1.0, 0.5])
    other.load_state_dict(watch.state_dict())
    with pytest.raises(TrainingStopped):
        seen(other, [40.0, 400.0])
    with pytest.raises(UserError, match=r"^watch\.max_loss_ratio is 1\.0, expected a number > 1, or null$"):
        WatchOptions(max_loss_ratio=1.0)
