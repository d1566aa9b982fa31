"""The samples that ship are what the script writes, and small."""

import base64
import csv
import io

import numpy as np
import pytest
from PIL import Image

from yopo_train.data.benchmark_samples import build
from yopo_train.data.benchmark_samples.build import main


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def table(file):
    """Rows of a TSV without their images, and the images."""
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines, dialect="excel-tab"))
    return rows, [pixels(base64.b64decode(row.pop("image"))) for row in rows]


def test_the_script_writes_what_ships(samples, tmp_path):
    build(tmp_path / "again")
    names = sorted(file.relative_to(samples) for file in samples.rglob("*") if file.is_file())
    assert names == sorted(file.relative_to(tmp_path / "again") for file in (tmp_path / "again").rglob("*.*"))
    assert sum((samples / name).stat().st_size for name in names) < 600_000
    for name in names:
        ours, again = samples / name, tmp_path / "again" / name
        if name.suffix in (".jpg", ".png"):  # libraries of other versions may pack or round otherwise
            assert np.abs(pixels(ours.read_bytes()) - pixels(again.read_bytes())).max() <= 8
        elif name.suffix == ".tsv":
            (rows, images), (rows_again, images_again) = table(ours), table(again)
            assert rows == rows_again
            np.testing.assert_array_equal(images, images_again)
        else:
            assert ours.read_text() == again.read_text()


def test_another_seed_gives_other_questions(samples, tmp_path):
    build(tmp_path / "other", seed=1)
    file = "gqa/testdev_balanced_questions.json"
    assert (samples / file).read_text() != (tmp_path / "other" / file).read_text()


def test_command(tmp_path, capsys):
    main([str(tmp_path / "new")])
    assert "gqa, vqav2, scienceqa, textvqa, pope, mme, mmbench" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path / "new")])
    assert caught.value.code == 2
    assert "the folder is not empty" in capsys.readouterr().err
