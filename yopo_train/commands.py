"""Commands without a configuration: each is called with the arguments that follow its words."""

import re

from jsonargparse import auto_cli

from yopo_train.bench.command import bench as measure
from yopo_train.cli_errors import OneLineParser
from yopo_train.pipeline import say
from yopo_train.report.show import show_plan
from yopo_train.summary import compare as compare_runs

PROGRAM = "yopo-train"


def compare(args: list[str]) -> None:
    """Average finished runs that differ only in the seed, and print one Markdown table."""
    parser = OneLineParser(prog=f"{PROGRAM} compare", description=compare.__doc__)
    parser.add_argument("runs", nargs="+", help="run folders")
    print(compare_runs(parser.parse_args(args).runs).markdown(), end="")


def bench(args: list[str]) -> None:
    """Speed and memory of base and pruned, in turns, with random weights. --text-tokens is --text_tokens too."""
    about = {"prog": f"{PROGRAM} bench", "description": bench.__doc__}
    auto_cli(measure, args=_as_jsonargparse(args), parser_class=OneLineParser, allow_abbrev=False, **about)


def plan_show(args: list[str]) -> None:
    """Print a plan: what it is, how it was made, and what stays in each layer."""
    parser = OneLineParser(prog=f"{PROGRAM} plan show", description=plan_show.__doc__)
    parser.add_argument("file", help="plan.safetensors, or a run folder")
    parser.add_argument("--heads", help="write its active heads to this new file too: .npy, .pth or .pt")
    options = parser.parse_args(args)
    show_plan(options.file, heads=options.heads)


def report_run(args: list[str]) -> None:
    """Build a run's report.html, and its plots, anew from the files in the run folder."""
    from yopo_train.report.build import write_report  # loads matplotlib

    parser = OneLineParser(prog=f"{PROGRAM} report", description=report_run.__doc__)
    parser.add_argument("run", help="run folder")
    say(str(write_report(parser.parse_args(args).run)))


def convert(args: list[str]) -> None:
    """Convert a checkpoint that only its own remote code could load to the layout of transformers."""
    from yopo_train.convert.command import CONVERTERS  # loads what only this command needs

    about = {"prog": f"{PROGRAM} convert", "description": convert.__doc__}
    auto_cli(CONVERTERS, args=args, parser_class=OneLineParser, allow_abbrev=False, **about)


def _as_jsonargparse(args: list[str]) -> list[str]:
    """``--visual-tokens`` is ``--visual_tokens``, and a flag needs no value."""
    spelled = [re.sub("^--[^=]+", lambda name: "--" + name[0][2:].replace("-", "_"), arg) for arg in args]
    bare = {(flag, end) for flag in ("--train", "--reference", "--calibration") for end in ("", "--")}
    pairs = zip(spelled, [*spelled[1:], ""], strict=False)
    return [f"{arg}=true" if (arg, after[:2]) in bare else arg for arg, after in pairs]


PLAIN_COMMANDS = {
    ("bench",): bench,
    ("compare",): compare,
    ("convert",): convert,
    ("plan", "show"): plan_show,
    ("report",): report_run,
}
