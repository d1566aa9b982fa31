"""The arguments of ``yopo-train score``."""

from __future__ import annotations

import json
from argparse import ArgumentParser

from .benchmarks import BENCHMARKS, PROTOCOLS
from .rescore import rescore, show_scores


def run_score(args: list[str], parser: ArgumentParser) -> None:
    """Parse, score, print."""
    parser.add_argument("--benchmark", required=True, choices=list(BENCHMARKS), help="which benchmark")
    parser.add_argument("--predictions", required=True, help="file of ours, of LLaVA's scripts or of lmms-eval")
    parser.add_argument("--protocol", default="llava", choices=list(PROTOCOLS), help="whose scorer")
    parser.add_argument(
        "--data", help="the benchmark's questions, where the file has no references: folder, file, hub id"
    )
    parser.add_argument("--split", help="split of the data; the benchmark's usual one unless given")
    parser.add_argument(
        "--reasoning_tags",
        "--reasoning-tags",
        action="store_true",
        help="remove <think> blocks, as lmms-eval's command does",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(args)
    names = ("benchmark", "predictions", "protocol", "data", "split", "reasoning_tags")
    result = rescore(**{name: getattr(options, name) for name in names})
    if options.json:
        print(json.dumps(result, ensure_ascii=False, indent=1))
    else:
        show_scores(result)
