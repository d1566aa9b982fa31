"""A million rows: how long until the first step, and how much memory.

python tests/million_rows.py FOLDER [ROWS]       writes rows in LLaVA's format with 50 small images, and million.yaml
yopo-train data check --config FOLDER/million.yaml --decode 50     prepares them: a quarter of an hour and more
PYTHONPATH=tests yopo-train fit --config FOLDER/million.yaml       prints seconds since its start, and MiB
"""

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from PIL import Image

ROOT = Path(__file__).parents[1]
WORDS = ["is", "the", "red", "square", "left", "of", "a", "blue", "circle", "what", "colour", "where", "how", "many"]
CONFIG = """\
run_dir: {folder}/run
model: {{base: {root}/data/tiny-vlm, max_new_tokens: 4, pruning: null}}
data:
  path: {folder}
  batch_size: 8
  num_workers: 1
  max_length: 230
  group_by_length: true
  test_limit: 8
trainer:
  max_steps: 60
  limit_val_batches: 0
  callbacks: [million_rows.Clock]
"""


def write(folder: Path, rows: int) -> None:
    """One to four turns of up to 26 words a row."""
    (folder / "images").mkdir(parents=True)
    chance = random.Random(0)
    for number in range(50):
        colour = tuple(chance.randrange(256) for _ in range(3))
        Image.new("RGB", (96, 96), colour).save(folder / "images" / f"{number}.png")

    def turn(first: bool) -> list[dict[str, str]]:
        question, answer = (" ".join(chance.choices(WORDS, k=chance.randint(1, most))) for most in (14, 12))
        image = "<image>\n" if first else ""
        return [{"from": "human", "value": f"{image}{question}?"}, {"from": "gpt", "value": answer}]

    for split, number in {"train": rows, "calibration": 64, "validation": 64, "test": 64}.items():
        with (folder / f"{split}.json").open("w") as file:
            for row in range(number):
                talk = [part for place in range(chance.randint(1, 4)) for part in turn(place == 0)]
                row = {"id": f"{row:07d}", "image": f"images/{row % 50}.png", "conversations": talk}
                file.write(("[" if row["id"] == "0000000" else ",\n") + json.dumps(row))
            file.write("]")
    (folder / "million.yaml").write_text(CONFIG.format(folder=folder.resolve(), root=ROOT))


class Clock(Callback):
    """Prints after some steps when this was, and what memory is the process's own."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step in (1, 20, 40, 60):
            started = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")
            seconds = time.clock_gettime(time.CLOCK_BOOTTIME) - started
            status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            print(
                f"step {trainer.global_step}: {seconds:.1f} s, {int(status['RssAnon'].split()[0]) // 1024} MiB",
                flush=True,
            )


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000)
