"""``yopo-train plan show FILE``: a plan in the terminal, and its heads as a file of the authors' kind."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from yopo_train.head_masks import write_head_mask
from yopo_train.plan import PruningPlan
from yopo_train.report.facts import layer_note, layer_table, plan_facts
from yopo_train.run_folder import RunFolder

PIPED_WIDTH = 160
"""Columns where nobody's terminal says how many there are."""


def show_plan(path: str | Path, console: Console | None = None, heads: str | Path | None = None) -> None:
    """Print a plan: what it is, how it was made, and a row a layer.

    Parameters
    ----------
    path
        A plan file, or the folder of a run that has one.
    console
        Where to; None is the terminal.
    heads
        File to write the plan's head mask to, see `write_head_mask`; None writes nothing.

    Raises
    ------
    UserError
        No such file, or not a plan; a head mask that is there already, or cannot be written: nothing is printed then.
    """
    plan = PruningPlan.load(RunFolder(path).plan if Path(path).is_dir() else path)
    if heads is not None:
        write_head_mask(heads, plan)
    if console is None:
        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=PIPED_WIDTH)
    facts = RichTable.grid(padding=(0, 2))
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    for name, value in plan_facts(plan):
        facts.add_row(name, escape(value))
    table = layer_table(plan, "#." if console.options.ascii_only else "●○")
    layers = RichTable()
    for place, header in enumerate(table.headers):
        # many heads take several lines; numbers are never broken
        fold = header == "heads"
        layers.add_column(header, justify="left" if place < 2 else "right", no_wrap=not fold, overflow="fold")
    for row in table.rows:
        layers.add_row(*row)
    console.print(facts)
    console.print(layers)
    console.print(layer_note(plan), style="dim")
