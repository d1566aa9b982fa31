"""The model card: ``README.md`` of a published folder. made from the run's files, not a form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from huggingface_hub import ModelCard

from ..errors import UserError
from ..plan import PruningPlan
from ..report.facts import plan_facts, printable
from ..run_folder import write_text
from ..summary import Table, benchmark_table, footnotes, run_table
from .card_data import Published, card_data

MEASURED = ("test", "benchmarks", "cost", "bench", "environment")
"""Sections of results.json that the notes under the tables explain."""
WHAT = {
    "adapter": "A LoRA adapter",
    "plan": "A pruning plan, made without any training,",
    "model": "A finetuned model: the adapter of a run, merged into the weights of its base,",
}


def write_card(path: str | Path, published: Published) -> None:
    """Write the card.

    Raises
    ------
    UserError
        Results of which no table can be made, or metadata that huggingface_hub refuses.
    """
    try:
        text = card_text(published)
        data = card_data(published).to_yaml()
        card = ModelCard(f"---\n{data}\n---\n\n{text}")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{path}: no card can be made of the run's results ({type(error).__name__}: {error})"
        ) from error
    write_text(path, str(card))


def card_text(published: Published) -> str:
    """The card without its front matter."""
    blocks = [f"# {published.name}", *(block for part in PARTS for block in part(published))]
    return "\n\n".join(blocks) + "\n"


# -- its parts, each a list of paragraphs ------------------------------------------------------------------------------
def _opening(published: Published) -> list[str]:
    plan, what = published.plan, WHAT[published.kind]
    text = f"{what} for {_base_link(published)}" if published.kind != "model" else f"{what} {_base_link(published)}"
    if plan is None:
        return [f"{text}. Nothing is pruned."]
    share = plan.cost.get("visual_share") if isinstance(plan.cost, dict) else None
    costs = published.results.get("cost", {})
    if "pruned" in costs:
        share = costs["pruned"]["visual_flops"] / costs["base"]["visual_flops"]
    kept = f" {100 * share:.1f} %" if isinstance(share, float) else " a part"
    beside = "" if published.kind == "plan" else ", with the pruning plan beside it"
    return [
        f"{text}{beside}. Under the plan, visual tokens take{kept} of the language model's visual FLOPs: which heads, "
        "channels, layers and neighbors they still use was decided once, by calibration, and holds for every input "
        "(YOPO, [arXiv 2410.06169](https://arxiv.org/abs/2410.06169); made with `yopo_train`)."
    ]


def _results(published: Published) -> list[str]:
    results, plan = published.results, published.plan
    if not {"test", "cost", "benchmarks"} & {name for name, section in results.items() if section}:
        return []
    sections = {name: results[name] for name in MEASURED if name in results}
    tables = [run_table(results), benchmark_table(results, plan)]
    texts = [_indented(table).markdown().rstrip() for table in tables if table is not None and table.rows]
    return ["## Results", *texts, "\n".join(footnotes(sections, None)).replace("<", "\\<")]


def _use(published: Published) -> list[str]:
    where = published.repo_id or "path/to/this/folder"
    named = published.base.name is not None
    base = "" if named or published.kind == "model" else f', base="path/to/{published.base.called}"'
    flag = "" if not base else f" --base path/to/{published.base.called}"
    fast = _code(
        "import yopo_train",
        "",
        f'model, processor = yopo_train.load("{where}"{base})  # {_loaded(published)}',
    )
    blocks = ["## How to load it"]
    if not named:
        blocks.append(
            f"The base model, `{published.base.called}`, was a local folder that nobody has given a name on the Hub: "
            "say where yours lies."
        )
    blocks += ["With `yopo_train`, at pruned speed:" if published.plan is not None else "With `yopo_train`:", fast]
    blocks += ["Or in a terminal:", _code(f"yopo-train chat --model {where}{flag} --image photo.jpg", language="bash")]
    return blocks + {"adapter": _use_peft, "model": _use_transformers, "plan": _use_nothing}[published.kind](
        published, where
    )


def _loaded(published: Published) -> str:
    parts = {"adapter": ["base", "adapter"], "plan": ["base"], "model": ["weights"]}[published.kind]
    return " + ".join([*parts, "plan"] if published.plan is not None else parts)


def _use_peft(published: Published, where: str) -> list[str]:
    base, revision = published.base.name or f"path/to/{published.base.called}", published.base.revision
    at = f', revision="{revision}"' if revision is not None else ""
    code = _code(
        "from peft import PeftModel",
        "from transformers import AutoModelForImageTextToText, AutoProcessor",
        "",
        f'base = "{base}"',
        f"model = AutoModelForImageTextToText.from_pretrained(base{at})",
        f'model = PeftModel.from_pretrained(model, "{where}").eval()',
        f"processor = AutoProcessor.from_pretrained(base{at})",
    )
    blocks = ["With plain `peft`, which knows nothing of the plan:", code]
    if published.plan is not None:
        blocks.append(
            "That is the dense model with the adapter, at the base model's speed. The adapter was trained under the "
            "plan; what it scores without it was not measured."
        )
    return blocks


def _use_transformers(published: Published, where: str) -> list[str]:
    code = _code(
        "from transformers import AutoModelForImageTextToText, AutoProcessor",
        "",
        f'model = AutoModelForImageTextToText.from_pretrained("{where}")',
        f'processor = AutoProcessor.from_pretrained("{where}")',
    )
    blocks = ["With plain `transformers`, which knows nothing of a plan:", code]
    if published.plan is not None:
        blocks.append(
            "That is the dense model at the base model's speed; what it scores without the plan was not measured."
        )
    return blocks


def _use_nothing(published: Published, where: str) -> list[str]:
    return ["There is no adapter: the weights are those of the base model, so there is nothing for `peft` to load."]


def _plan(published: Published) -> list[str]:
    plan = published.plan
    if plan is None:
        return []
    hidden = {"base model", "made by", "measured on", "semantics" if plan.semantics == "compact" else ""}
    facts = [[name, value] for name, value in plan_facts(plan) if name not in hidden]
    (first, number), *rest = facts
    blocks = ["## The plan", _table([first, number], rest)]
    if published.heat_map is not None:
        blocks += [
            f"![Head ratio of every head, and which heads stay]({published.heat_map})",
            "The head ratio: attention that text behind the image gives to the image, over what it gives to everything "
            "else, mean over the calibration samples. A dot marks a head that still sees visual tokens.",
        ]
    return blocks


def _making(published: Published) -> list[str]:
    blocks = ["## How it was made"]
    if published.plan is not None:
        made = dict(plan_facts(published.plan)).get("made by", "not recorded")
        blocks += [_calibration(published.plan), f"The plan's settings: {_escaped(made)}."]
    train = published.results.get("train")
    if train and published.kind != "plan":
        under = " under the plan" if train.get("plan") else ""
        how = {"lora": "LoRA", "full": "all weights"}.get(train["tuning"], train["tuning"])
        blocks.append(
            f"Trained{under} ({how}): {train['steps']} steps in {train['seconds']:.0f} s, "
            f"{train['trainable'] / 1e6:.2f} M trainable of {train['parameters'] / 1e6:.2f} M parameters."
        )
    model = published.config.get("model")
    if isinstance(model, dict) and model.get("quantization"):
        blocks.append(f"The base was quantized ({_escaped(str(model['quantization']))}) when all this was measured.")
    if published.config:
        blocks.append("All settings are in `config.yaml`; of local paths only the last name is left.")
    return blocks


def _calibration(plan: PruningPlan) -> str:
    """What the plan was measured on."""
    made = plan.made_by if isinstance(plan.made_by, dict) else {}
    samples, data = made.get("samples"), made.get("data_fingerprint")
    if samples is None:
        return "What the plan was calibrated on is not recorded."
    where = f" ({_escaped(printable(str(data)))})" if data is not None else ""
    return f"Calibrated on {samples} samples{where}: one pass of the base model, no training."


def _limits(published: Published) -> list[str]:
    scores, bench = published.results.get("test", {}), published.results.get("bench", {})
    points = []
    if published.stage is not None:
        samples = scores[published.stage]["samples"]
        points.append(
            f"Accuracy was measured on {samples} questions of {published.questions} and says nothing about other tasks."
        )
    else:
        points.append("It was not scored: measure it on your own task before you rely on it.")
    if published.plan is not None:
        points.append(
            "FLOPs are a formula, time is not: "
            + (
                f"the prefill of the language model was {bench['speedup']:.2f} times faster on {bench['device']}, and "
                "the vision tower and the decoding of answers take the time they take. An adapter costs a little of "
                "its own until it is merged (`yopo-train merge`)."
                if "speedup" in bench
                else "nothing was timed; `yopo-train bench` times it on your machine."
            )
        )
        points.append(
            "The plan fits this base model alone: `yopo_train.load` compares config, dimensions and norms of weights, "
            "and refuses any other. Prompts without an image are computed as if there were no plan."
        )
        points.append("Calibration saw images of its data only; other images, sizes or languages may need other heads.")
    points.append("What the base model gets wrong, and its licence and terms of use, hold here too.")
    return ["## Limits", "\n".join(f"- {point}" for point in points)]


PARTS: tuple[Callable[[Published], list[str]], ...] = (_opening, _results, _use, _plan, _making, _limits)


# -- Markdown ----------------------------------------------------------------------------------------------------------
def _base_link(published: Published) -> str:
    base = published.base
    return f"[{base.name}](https://huggingface.co/{base.name})" if base.name else f"`{base.called}`"


def _indented(table: Table) -> Table:
    """Rows that belong to the one above them, told by their leading space, which Markdown drops."""
    rows = [[f"&emsp;{row[0].strip()}" if row[0].startswith(" ") else row[0], *row[1:]] for row in table.rows]
    return Table(table.headers, rows)


def _code(*lines: str, language: str = "python") -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _table(headers: list[str], rows: list[list[str]]) -> str:
    cells = [[_escaped(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [headers, ["---"] * len(headers), *cells])


def _escaped(text: str) -> str:
    """Text from files as text: no markup."""
    for character in "\\|<*_`":
        text = text.replace(character, "\\" + character)
    return text
