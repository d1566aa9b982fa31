"""The benchmarks: their data from the hub, a local folder or the official files, and how each protocol asks.

    benchmark = get_benchmark("pope")
    items = benchmark.items("data/benchmarks/pope", protocol="llava", limit=100)

Where data are bad, the reference's treatment holds if it has one; the rest is one `UserError` with file, row and field:

    a row without an answer         0 in lmms-eval's VQAv2 and TextVQA, an error elsewhere; of a split none is fine
    TextVQA, not ten answers        an error in LLaVA's protocol (it asserts ten), any number in lmms-eval's
    TextVQA, two equal questions    LLaVA's question file gets the answers of the last
    GQA, not balanced               left out, as the official script does
    MME, an image without a pair    an error (lmms-eval asserts pairs)
    a label that is not yes or no   an error (lmms-eval asserts; LLaVA would take it for a yes)
    an id that comes twice          an error (dictionaries of the references would keep the last)
    an image that is missing        an error before anything runs; one that is broken, when it is opened
"""

from __future__ import annotations

from ...errors import UserError
from ..metrics import PROTOCOLS
from .benchmark import Benchmark
from .gqa import GQA
from .item import GenerationSettings, Item
from .mmbench import MMBench
from .mme import MME
from .pope import POPE
from .scienceqa import ScienceQA
from .textvqa import TextVQA
from .vqav2 import VQAv2

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (GQA(), VQAv2(), ScienceQA(), TextVQA(), POPE(), MME(), MMBench())  # as the paper's table
}

__all__ = ["BENCHMARKS", "PROTOCOLS", "Benchmark", "GenerationSettings", "Item", "get_benchmark"]


def get_benchmark(name: str) -> Benchmark:
    """The benchmark of this name.

    Raises
    ------
    UserError
        There is none.
    """
    if name not in BENCHMARKS:
        raise UserError(f"benchmark: found {name!r}, expected one of: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
