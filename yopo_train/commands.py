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


def push(args: list[str]) -> None:
    """Push a finished run, or a folder exported or merged from one, to the Hugging Face Hub."""
    from yopo_train.hub.options import HubOptions
    from yopo_train.hub.push import push as push_to_hub

    parser = OneLineParser(prog=f"{PROGRAM} push", description=push.__doc__)
    parser.add_argument("run", help="run folder, or an exported or merged one")
    parser.add_argument("--repo_id", "--repo-id", required=True, help="user/name; made if it does not exist")
    parser.add_argument("--revision", help="branch, made if it does not exist; main unless given")
    parser.add_argument("--base_model", "--base-model", help="hub id of a base model that was a folder")
    parser.add_argument("--license", help="the card's licence; that of the base model unless given")
    parser.add_argument("--private", action="store_true", help="refuse a repository that is public")
    parser.add_argument("--create_pr", "--create-pr", action="store_true", help="propose it as a pull request")
    parser.add_argument("--dry_run", "--dry-run", action="store_true", help="list the files, and send nothing")
    options = parser.parse_args(args)
    names = ("repo_id", "revision", "base_model", "license", "private", "create_pr")
    done = push_to_hub(options.run, HubOptions(**{name: options[name] for name in names}), options.dry_run)
    say(done if options.dry_run else f"pushed: {done}")


def pull(args: list[str]) -> None:
    """Fetch an exported run from the Hugging Face Hub into a new folder, and check it."""
    from yopo_train.hub.pull import pull as pull_from_hub

    parser = OneLineParser(prog=f"{PROGRAM} pull", description=pull.__doc__)
    parser.add_argument("repo_id", help="user/name")
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--revision", help="branch, tag or commit; main unless given")
    options = parser.parse_args(args)
    is_new = pull_from_hub(options.repo_id, options.out, options.revision)
    say(f"{options.repo_id}: {'in' if is_new else 'was there already, in'} {options.out}")


def merge(args: list[str]) -> None:
    """Add a run's adapter to the weights of its base: a complete model folder, with the plan and a card."""
    from yopo_train.hub.merge import SHARD_SIZE
    from yopo_train.hub.merge import merge as merge_run

    parser = OneLineParser(prog=f"{PROGRAM} merge", description=merge.__doc__)
    parser.add_argument("run", help="run folder, or an exported one, or its hub id")
    parser.add_argument("out", help="folder to write; new or empty")
    parser.add_argument("--base", help="folder or hub id of the base, in place of the recorded one")
    parser.add_argument("--base_model", "--base-model", help="hub id of a base model that was a folder")
    parser.add_argument("--license", help="the card's licence; that of the base model unless given")
    parser.add_argument("--max_shard_size", "--max-shard-size", default=SHARD_SIZE, help="of one file of weights")
    options = vars(parser.parse_args(args))
    say(str(merge_run(options.pop("run"), options.pop("out"), **options)))


def chat(args: list[str]) -> None:
    """Talk to a model in the terminal: a run, an exported or a merged folder, a base model, or a hub id."""
    from yopo_train.hub.chat import chat as chat_with

    parser = OneLineParser(prog=f"{PROGRAM} chat", description=chat.__doc__)
    parser.add_argument("--model", required=True, help="hub id or folder")
    parser.add_argument(
        "--image", action="append", default=[], help="image of the first question; several times for more"
    )
    parser.add_argument("--prompt", help="ask this and leave; else questions are read, a line each")
    parser.add_argument("--base", help="folder or hub id of the base, in place of the recorded one")
    parser.add_argument("--revision", help="branch, tag or commit of the model")
    parser.add_argument("--dense", action="store_true", help="leave the plan away, for comparison")
    parser.add_argument("--dtype", default="auto", help="type of the weights: auto, float32, bfloat16 or float16")
    parser.add_argument("--device", default="auto", help="auto is the GPU where there is one")
    parser.add_argument("--max_new_tokens", "--max-new-tokens", type=int, default=256, help="longest answer")
    options = vars(parser.parse_args(args))
    chat_with(options.pop("model"), options.pop("image"), options.pop("prompt"), **options)


def score(args: list[str]) -> None:
    """Score anybody's predictions file, without a model: ours, LLaVA's answers, lmms-eval's samples."""
    from yopo_train.evaluation.rescore_command import run_score

    run_score(args, OneLineParser(prog=f"{PROGRAM} score", description=score.__doc__))


def as_subcommand(args: list[str]) -> list[str]:
    """``data check`` is the subcommand ``data_check``, and its ``--probe`` needs no value."""
    if args[:2] != ["data", "check"]:
        return args
    pairs = zip(args[2:], [*args[3:], "--"], strict=True)
    return ["data_check", *("--probe=true" if (arg, end[:2]) == ("--probe", "--") else arg for arg, end in pairs)]


def _as_jsonargparse(args: list[str]) -> list[str]:
    """``--visual-tokens`` is ``--visual_tokens``, and a flag needs no value."""
    spelled = [re.sub("^--[^=]+", lambda name: "--" + name[0][2:].replace("-", "_"), arg) for arg in args]
    bare = {(flag, end) for flag in ("--train", "--reference", "--calibration") for end in ("", "--")}
    pairs = zip(spelled, [*spelled[1:], ""], strict=False)
    return [f"{arg}=true" if (arg, after[:2]) in bare else arg for arg, after in pairs]


PLAIN_COMMANDS = {
    ("bench",): bench,
    ("chat",): chat,
    ("compare",): compare,
    ("convert",): convert,
    ("merge",): merge,
    ("plan", "show"): plan_show,
    ("pull",): pull,
    ("push",): push,
    ("report",): report_run,
    ("score",): score,
}
