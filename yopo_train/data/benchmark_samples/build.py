"""Write a sample of every benchmark into a folder, a subfolder each.

python -m yopo_train.data.benchmark_samples data/benchmarks
"""

import argparse
import random
from collections.abc import Callable
from pathlib import Path

from yopo_train.data.benchmark_samples.choices import mmbench, scienceqa
from yopo_train.data.benchmark_samples.short_answers import gqa, textvqa, vqav2
from yopo_train.data.benchmark_samples.yes_no import mme, pope
from yopo_train.errors import UserError
from yopo_train.run_folder import need_empty

WRITERS: dict[str, Callable[[Path, random.Random], None]] = {
    "gqa": gqa,
    "vqav2": vqav2,
    "scienceqa": scienceqa,
    "textvqa": textvqa,
    "pope": pope,
    "mme": mme,
    "mmbench": mmbench,
}
CARD = """# Samples of the benchmarks

A few questions of our own, about pictures of our own, in the files of each benchmark as it is published: so every
loader, prompt and score runs without a download. They measure nothing. Put the real files in their places, or give the
hub's id, to measure a model.

Written by `python -m yopo_train.data.benchmark_samples` (CC0).
"""


def build(out: str | Path, seed: int = 0) -> None:
    """Write the samples.

    Parameters
    ----------
    out : folder to write into. It must not exist yet, or be empty.
    seed : the same seed gives the same questions and pictures.

    Raises
    ------
    UserError : `out` holds files already.
    """
    out = Path(out)
    need_empty(out)
    for name, write in WRITERS.items():
        folder = out / name
        folder.mkdir(parents=True)
        write(folder, random.Random(f"{seed}/{name}"))
    (out / "README.md").write_text(CARD)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m yopo_train.data.benchmark_samples", description=__doc__.split("\n")[0]
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        build(args.out, args.seed)
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
    size = sum(file.stat().st_size for file in args.out.rglob("*") if file.is_file())
    print(f"{args.out}: {', '.join(WRITERS)}; {size / 1024:.0f} KiB")
