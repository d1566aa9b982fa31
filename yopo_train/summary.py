"""The table that closes a run, its file ``summary.md``, and the comparison of several runs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from yopo_train.errors import UserError
from yopo_train.evaluation.table import benchmark_cells, benchmark_notes
from yopo_train.plan import PruningPlan
from yopo_train.run_folder import RunFolder, write_text
from yopo_train.run_keys import difference, flatten

STAGES = ("base", "pruned", "recovered", "trained")
"""What is scored, in the order of the table: trained is a finetuned model that was not pruned."""
NOTHING = "-"
SEEDS = ("seed_everything", "data.seed", "model.pruning.seed")
"""What runs of one row of a comparison may differ in."""


@dataclass
class Table:
    """Rows of text, printed the same way to a file and to a terminal."""

    headers: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """GitHub's table syntax; the first column is left-aligned, numbers to the right."""
        widths = [max(len(row[i]) for row in [self.headers, *self.rows]) for i in range(len(self.headers))]

        def line(cells: Sequence[str]) -> str:
            padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
            return f"| {' | '.join(padded)} |"

        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        return "\n".join([line(self.headers), line(rule), *map(line, self.rows)]) + "\n"

    def show(self, title: str) -> None:
        """Print to the terminal."""
        table = RichTable(title=title, title_justify="left", title_style="bold")
        for i, header in enumerate(self.headers):
            table.add_column(header, justify="left" if i == 0 else "right")
        for row in self.rows:
            table.add_row(*row)
        Console().print(table)


def score_table(scores: dict[str, dict[str, Any]]) -> Table:
    """Accuracy alone: one column a stage, one row a question kind."""
    stages = _ordered(scores)
    return Table(["", *stages], _accuracy_rows(scores, stages))


def run_table(results: dict[str, Any]) -> Table:
    """The table of one run: accuracy, costs by formula and measured prefill time; one column a stage.

    Stages are columns, so that the table fits a terminal however many kinds of questions there are.
    """
    scores, costs, bench = (results.get(section, {}) for section in ("test", "cost", "bench"))
    stages = _ordered(scores | {stage: {} for stage in costs})
    # an adapter changes no cost: it can be merged
    cost_of = {stage: costs.get({"recovered": "pruned", "trained": "base"}.get(stage, stage)) for stage in stages}
    rows = [
        *_accuracy_rows(scores, stages),
        ["visual FLOPs", *(_flops(cost_of[stage], costs, "visual_flops") for stage in stages)],
        ["prefill FLOPs", *(_flops(cost_of[stage], costs, "prefill_flops") for stage in stages)],
        ["prefill ms", *(f"{bench[stage]['prefill']:.2f}" if stage in bench else NOTHING for stage in stages)],
        ["KV cache", *(_bytes(cost_of[stage]["kv_cache_bytes"]) if cost_of[stage] else NOTHING for stage in stages)],
    ]
    return Table(["", *stages], [row for row in rows if set(row[1:]) != {NOTHING}])


def benchmark_table(results: dict[str, Any], plan: PruningPlan | None) -> Table | None:
    """Benchmarks as columns, stages as rows; None where no benchmark was scored."""
    scores = results.get("benchmarks")
    return Table(*benchmark_cells(scores, _budget(plan))) if scores else None


def write_summary(run: RunFolder) -> list[Table]:
    """Write ``summary.md`` and return its tables."""
    results = run.results()
    plan = PruningPlan.load(run.plan) if run.plan.is_file() else None
    tables = [table for table in (run_table(results), benchmark_table(results, plan)) if table is not None]
    lines = [f"# {run.path.name}", "", *(table.markdown() for table in tables), *footnotes(results, plan)]
    write_text(run.summary, "\n".join(lines) + "\n")
    return tables


def compare(paths: Sequence[str | Path]) -> Table:
    """One row for each kind of pruning among finished runs, averaged over the runs that differ in nothing but seed.

    Raises
    ------
    UserError
        A folder without scores, one that is given twice, or runs of one row that differ in more than the seed.
    """
    groups: dict[str, list[tuple[RunFolder, dict[str, Any]]]] = {}
    if twice := [path for path, times in Counter(Path(path).resolve() for path in paths).items() if times > 1]:
        raise UserError(f"{twice[0]}: given twice, expected different runs")
    for path in paths:
        run = RunFolder(path)
        results = run.results()
        if not results.get("test"):
            raise UserError(f"{path}: no scores in results.json, expected the folder of a finished run")
        groups.setdefault(_label(run, results), []).append((run, results))
    for found in groups.values():
        _check_that_only_seeds_differ([run for run, _ in found])
    headers = ["pruning", "runs", "visual FLOPs %", "base %", "pruned %", "of base", "recovered %", "of base"]
    rows = []
    for label, found in sorted(groups.items()):
        rows.append([label, str(len(found)), *_averages([results for _, results in found])])
    return Table(headers, rows)


# -- cells ------------------------------------------------------------------------------------------------------------
def _ordered(stages: dict[str, Any]) -> list[str]:
    return [name for name in STAGES if name in stages]


def _accuracy_rows(scores: dict[str, dict[str, Any]], stages: list[str]) -> list[list[str]]:
    """Overall, as a share of the base's, and of each kind of question."""
    kinds = sorted({kind for score in scores.values() for kind in score["kinds"]})
    overall = [scores.get(stage, {}).get("accuracy") for stage in stages]
    base = scores.get("base", {}).get("accuracy")
    rows = [["accuracy %", *map(_percent, overall)]]
    if base and len(stages) > 1:
        rows.append(["of base %", *(_percent(value / base if value is not None else None) for value in overall)])
    for kind in kinds:
        rows.append([f"  {kind}", *(_percent(scores.get(stage, {"kinds": {}})["kinds"].get(kind)) for stage in stages)])
    return rows


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f}"


def _flops(cost: dict[str, float] | None, costs: dict[str, Any], name: str) -> str:
    if not cost:
        return NOTHING
    return f"{_si(cost[name])} ({100 * cost[name] / costs['base'][name]:.1f} %)"


def _si(value: float) -> str:
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.2f} {unit}"
    return f"{value:.0f}"


def _bytes(value: float) -> str:
    for factor, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= factor:
            return f"{value / factor:.1f} {unit}"
    return f"{value} B"


# -- text under the table ---------------------------------------------------------------------------------------------
def footnotes(results: dict[str, Any], plan: PruningPlan | None) -> list[str]:
    """What the numbers mean and what they were measured on."""
    lines = []
    if scores := results.get("test"):
        samples = next(iter(scores.values()))["samples"]
        lines.append(f"- accuracy: exact match of generated answers, {samples} held-out questions")
    if scores := results.get("benchmarks"):
        lines += benchmark_notes(scores, _budget(plan))
    if prompt := results.get("cost", {}).get("prompt"):
        lines.append(
            f"- FLOPs and cache by formula, for one prompt of {prompt['visual_tokens']} visual and "
            f"{prompt['text_tokens']} text tokens; visual FLOPs count the visual tokens alone, prefill FLOPs the whole "
            "prompt in the language model"
        )
    if bench := results.get("bench"):
        lines.append(
            f"- prefill ms: the language model up to the first token, median of {bench['repeats']} runs in turns on "
            f"{bench['device']}, {bench['threads']} threads, {bench['dtype']}, batch {bench['batch']}: pruned is "
            f"{bench['speedup']:.2f} times faster"
        )
    if plan is not None:
        said = {key: plan.made_by.get(key) for key in ("preset", "budget", "measure", "method", "choice")}
        made = ", ".join(f"{key} {value}" for key, value in said.items() if value is not None)
        lines.append(f"- {plan.describe()}" + (f" ({made})" if made else ""))
    if train := results.get("train"):
        lines.append(
            f"- training: {train['tuning']}, {train['steps']} steps in {train['seconds']:.0f} s, "
            f"{train['trainable'] / 1e6:.2f} M trainable of {train['parameters'] / 1e6:.2f} M parameters"
        )
    environment = results.get("environment", {})
    lines += [f"- {name}: {environment[name]}" for name in ("hardware", "versions", "command") if name in environment]
    return lines


def _budget(plan: PruningPlan | None) -> float | None:
    return plan.made_by.get("budget") if plan is not None else None


# -- several runs -----------------------------------------------------------------------------------------------------
def _label(run: RunFolder, results: dict[str, Any]) -> str:
    """What a run pruned, seeds left out."""
    if not run.plan.is_file():
        return "none"
    made = PruningPlan.load(run.plan).made_by
    steps = results.get("train", {}).get("steps")
    training = [f"{results['train']['tuning']} {steps} steps"] if steps else []
    method, chosen = made.get("method"), made.get("choice")
    if method == "auto":
        chosen = "auto" if chosen == "score" else f"auto, {chosen}"
    return ", ".join([f"{100 * made['budget']:g} % {chosen}" if "budget" in made else "given plan", *training])


def _check_that_only_seeds_differ(runs: list[RunFolder]) -> None:
    """Means are of repetitions of one experiment: refuse runs whose label is the same and whose settings are not."""
    first, *others = [(run, flatten(run.read_config()) if run.config.is_file() else {}) for run in runs]
    for run, config in others:
        key = difference(first[1], config, lambda key: key not in SEEDS)
        if key is not None:
            raise UserError(
                f"{run}: {key} is {config.get(key)!r}, and {first[1].get(key)!r} in {first[0]}; "
                "expected runs that differ in the seed only"
            )


def _averages(runs: list[dict[str, Any]]) -> list[str]:
    base, pruned, recovered = ([run["test"].get(stage, {}).get("accuracy") for run in runs] for stage in STAGES[:3])
    costs = [run.get("cost", {}) for run in runs]
    shares = [c["pruned"]["visual_flops"] / c["base"]["visual_flops"] if "pruned" in c else None for c in costs]
    return [
        _spread(shares),
        _spread(base),
        _spread(pruned),
        _spread(_ratios(pruned, base)),
        _spread(recovered),
        _spread(_ratios(recovered, base)),
    ]


def _ratios(values: list[float | None], bases: list[float | None]) -> list[float | None]:
    return [v / b if v is not None and b else None for v, b in zip(values, bases, strict=True)]


def _spread(values: list[float | None]) -> str:
    """Mean and standard deviation, in percent; runs without the value are left out."""
    known = [100 * value for value in values if value is not None]
    if not known:
        return NOTHING
    return f"{mean(known):.1f}" + (f" ± {stdev(known):.1f}" if len(known) > 1 else "")
