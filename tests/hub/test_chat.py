"""``yopo-train chat``: answers on stdout, timing on stderr; several turns; one line for what is wrong."""

import io
import re
import shutil

import pytest
import yaml
from PIL import Image

from yopo_train.cli import main
from yopo_train.data.collate import EvalCollator
from yopo_train.hub.chat import talk
from yopo_train.hub.conversation import Conversation, open_image
from yopo_train.hub.load import load

TIMING = r"first token after \d+ ms \((\d+) visual \+ (\d+) text tokens\)(, then [\d.]+ tokens/s)?, (\d+) tokens"


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a picture.png"
    Image.new("RGBA", (50, 40), "red").save(path)
    return path


def test_one_question(run, picture, capsys):
    arguments = ["--image", str(picture), "--prompt", "What is shown?", "--max_new_tokens", "4"]
    assert main(["chat", "--model", str(run), *arguments]) == 0
    out, err = capsys.readouterr()
    assert out.endswith("\n") and out == out.lstrip() and "</s>" not in out
    assert "plan " in err and re.search(TIMING, err)[1] == "144"
    assert main(["chat", "--model", str(run), *arguments]) == 0
    assert capsys.readouterr().out == out  # greedy
    assert main(["chat", "--model", str(run), "--dense", *arguments]) == 0
    assert "plan " not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "seen"), [({"letterbox": True}, (60, 60)), ({"max_pixels": 900}, (42, 21)), ({}, (60, 30))]
)
def test_images_are_sized_as_in_the_run(data, seen, published, tiny_vlm, tmp_path, monkeypatch):
    folder = shutil.copytree(published, tmp_path / "pulled")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"] |= data
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    Image.new("RGB", (60, 30), "red").save(tmp_path / "wide.png")
    sizes, collate = [], EvalCollator.__call__
    monkeypatch.setattr(
        EvalCollator, "__call__", lambda self, rows: (sizes.append(rows[0]["images"][0].size), collate(self, rows))[1]
    )
    arguments = ["--image", str(tmp_path / "wide.png"), "--prompt", "What?", "--max_new_tokens", "2"]
    assert main(["chat", "--model", str(folder), "--base", str(tiny_vlm), *arguments]) == 0
    assert sizes == [seen]


def test_lines_of_a_pipe_are_turns(run, picture, capsys, monkeypatch):
    lines = f"What is shown?\n\nAnd where?\n/image {picture}.jpg\n/bogus\n/new\nIs it red?\n/quit\nnever asked\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert main(["chat", "--model", str(run), "--image", str(picture), "--max_new_tokens", "3"]) == 0
    err = capsys.readouterr().err
    turns = re.findall(TIMING, err)
    assert [int(turn[0]) for turn in turns] == [144, 144, 144]
    first, second, third = (int(turn[1]) for turn in turns)
    assert second > first + 3 and third < second  # the second prompt holds the first question and its answer
    assert f"error: image {picture}.jpg: no such file" in err and "error: /bogus is no command: /image FILE" in err


def test_a_question_without_an_image_and_one_with_two(tiny_vlm, picture, capsys):
    conversation = Conversation(*load(tiny_vlm), max_new_tokens=3)
    image = open_image(picture)
    assert image.mode == "RGB"
    answer = conversation.ask("How many?")
    assert (answer.visual_tokens, answer.tokens) == (0, 3) and answer.text == capsys.readouterr().out.strip()
    assert conversation.ask("And these?", [image, image]).visual_tokens == 288
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"] * 2
    talk(conversation, iter(["/new"]))
    assert not conversation.messages and not conversation.images


@pytest.mark.parametrize(
    ("stdin", "message"),
    [(None, "stdin is closed"), (io.TextIOWrapper(io.BytesIO(b"\xff what\n"), "utf-8"), "stdin is not text in utf-8")],
)
def test_no_questions_to_read(tiny_vlm, capsys, monkeypatch, stdin, message):
    monkeypatch.setattr("sys.stdin", stdin)
    assert main(["chat", "--model", str(tiny_vlm)]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "none.png", "--prompt", "x"], "image none.png: no such file, expected an image file"),
        (["--image", ".", "--prompt", "x"], "image .: is a folder, expected an image file"),
        (["--image", __file__, "--prompt", "x"], "not an image that can be read"),
        (["--prompt", " "], "--prompt is empty"),
        (["--prompt", "x", "--max_new_tokens", "0"], "--max_new_tokens is 0"),
        (["--prompt", "x", "--device", "cuda:99"], "--device is 'cuda:99', expected a device of this machine"),
        (["--prompt", "x", "--dtype", "int3"], "dtype is 'int3'"),
    ],
)
def test_what_is_wrong_is_one_line(tiny_vlm, capsys, arguments, message):
    assert main(["chat", "--model", str(tiny_vlm), *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
