"""A plain folder of images: rows with a default question, for calibration only."""

import pytest
from question_sets import make_row, png, write_split

from yopo_train.calibration import Scores, calibrate
from yopo_train.cli import main
from yopo_train.data.module import VQADataModule
from yopo_train.data.rows import load_rows
from yopo_train.data.sources import has_split
from yopo_train.errors import UserError
from yopo_train.models import load_base
from yopo_train.plan import PruningPlan


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "pictures"
    (place / "more").mkdir(parents=True)
    for index in range(6):
        (place / f"picture {index}.png").write_bytes(png(index))
    (place / "more" / "a.JPEG").write_bytes(png(7))
    (place / ".DS_Store").write_bytes(b"not an image, and not asked")
    return place


def test_every_image_is_a_row_with_the_default_question(folder):
    rows = load_rows(folder, "calibration")
    assert len(rows) == 7 and has_split(folder, "calibration")
    row = rows[0]
    assert row["id"] == "more/a.JPEG" and row["images"][0].size == (96, 96)
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
    assert row["messages"][0]["content"] == "<image>\nDescribe the image."
    assert rows.kinds == ["description"]


def test_it_has_no_other_split(folder):
    assert not has_split(folder, "train")
    with pytest.raises(UserError, match=r"no split 'test'; found: calibration$"):
        load_rows(folder, "test")


def test_it_calibrates_a_model(folder, tiny_vlm):
    model, processor = load_base(tiny_vlm)
    data = VQADataModule(str(folder), eval_batch_size=2, calibration_samples=5, seed=1)
    data.processor = processor
    rows = data.rows("calibration")
    assert [row["id"] for row in rows] == [row["id"] for row in load_rows(folder, "calibration").sample(5, 1)]
    scores = calibrate(model, data.calibration_dataloader(), rows.fingerprint(), data.seed, data.eval_batch_size)
    assert scores.n_samples == 5 and scores.data_fingerprint == rows.fingerprint()
    assert (scores.seed, scores.batch_size) == (1, 2)


def test_a_plan_can_be_traced_to_the_images_that_made_it(folder, config, tmp_path):
    drawn = ["--data.path", str(folder), "--data.calibration_samples", "3", "--seed_everything", "4"]
    assert main(["plan", "--config", str(config), *drawn, "--data.eval_batch_size", "2"]) == 0
    scores = Scores.load(tmp_path / "run" / "scores.safetensors")
    made_by = PruningPlan.load(tmp_path / "run" / "plan.safetensors").made_by
    assert (made_by["scores"], made_by["data_fingerprint"]) == (scores.id, scores.data_fingerprint)
    assert (scores.n_samples, scores.seed, scores.batch_size) == (3, 4, 2)
    rows = load_rows(folder, "calibration").sample(3, 4)
    assert scores.data_fingerprint.endswith(rows.fingerprint()) and str(folder) in scores.data_fingerprint


def test_the_fingerprint_is_that_of_the_images(folder):
    before = load_rows(folder, "calibration").fingerprint()
    assert load_rows(folder, "calibration").fingerprint() == before
    (folder / "picture 3.png").write_bytes(png(33))
    changed = load_rows(folder, "calibration")
    assert changed.fingerprint() != before
    (folder / "picture 3.png").unlink()
    with pytest.raises(UserError, match=r"row 'picture 3.png': picture 3.png cannot be read as an image"):
        changed.fingerprint()


def test_an_image_that_is_none_names_itself(folder):
    (folder / "broken.png").write_bytes(b"text")
    rows = load_rows(folder, "calibration")
    with pytest.raises(UserError, match=r"row 'broken.png': broken.png cannot be read as an image"):
        rows[0]


def test_a_question_set_beside_images_stays_one(tmp_path):
    folder = write_split(tmp_path / "set", "train", [make_row(0)])
    (folder / "red.png").write_bytes(png(1))
    assert len(load_rows(folder, "train")) == 1 and not has_split(folder, "calibration")
