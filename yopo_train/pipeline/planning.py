"""From the base model to a plan: the stages calibrate and plan, and the study of what each choice changes."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from yopo_train.calibration import CalibrationModule, PlanConfig, Scores, calibrate, make_plan
from yopo_train.calibration.curves import curves, number_of_points
from yopo_train.calibration.judge import OutputJudge
from yopo_train.calibration.judging import JudgingModule, searched
from yopo_train.calibration.same_model import check_same_model
from yopo_train.calibration.stability import BLOCK, SPLITS, possible_sizes, stability, too_few
from yopo_train.cost import Prompt
from yopo_train.data.collate import EvalCollator
from yopo_train.errors import UserError
from yopo_train.models import model_inputs
from yopo_train.models.architecture import architecture
from yopo_train.models.offload import entry_device
from yopo_train.models.prompt import prompt_of
from yopo_train.pipeline.context import Context, say
from yopo_train.pipeline.prompt import costs, typical_batch
from yopo_train.plan import PruningPlan
from yopo_train.progress import Bar
from yopo_train.ranks import is_first_rank, on_first_rank, rank_and_world
from yopo_train.run_folder import RunFolder, write_text

TUNED_SCORES = tuple(
    f"{section}.{stage}" for section in ("test", "validate", "benchmarks") for stage in ("recovered", "trained")
)
"""Sections of ``results.json`` about a finetuned model."""


def calibration(context: Context) -> str:
    """Gives ``scores.safetensors``."""
    context.to_base()
    rows = context.data.rows("calibration")
    data = context.data
    module = CalibrationModule(
        context.module.model, f"{rows.source} {rows.fingerprint()}", seed=data.seed, batch_size=data.eval_batch_size
    )
    trainer = context.trainers.for_calibration("calibrate")
    trainer.validate(module, dataloaders=context.data.calibration_dataloader(), verbose=False)
    on_first_rank(lambda: module.scores.save(context.run.scores))
    if (warning := too_few(module.scores)) is not None:
        say(f"      warning: {warning}")
    return f"measured on {module.scores.n_samples} samples"


def planning(context: Context) -> str:
    """Gives ``plan.safetensors`` and the predicted costs."""
    context.to_base()
    module, run = context.module, context.run
    prompt, config = typical_prompt(context), module.model.config
    if module.plan_file is not None:
        made = module.given_plan()
    else:
        made = decide(context, prompt)
        made.base_model, made.revision = module.base, getattr(config, "_commit_hash", None) or module.revision
    made.architecture = architecture(config)
    refuse_other_plan(made, run)
    cost = costs(module.model, made, prompt)
    context.record("cost", cost)
    # what was measured under a plan that was here before
    stale = ["test.pruned", "validate.pruned", "benchmarks.pruned", "bench", *TUNED_SCORES]
    context.forget(*stale if is_trained(run) else [*stale, "train"])
    on_first_rank(lambda: made.save(run.plan))
    if not made.heads.any():
        say("      warning: no head sees the image under this plan, so that no answer depends on it")
    share = cost["pruned"]["visual_flops"] / cost["base"]["visual_flops"]
    return f"{made.describe()}, visual FLOPs {100 * share:.1f} %"


def decide(context: Context, prompt: Prompt) -> PruningPlan:
    """The plan that ``model.pruning`` asks for; method auto also gives ``search.json``."""
    run, config, scores = context.run, seeded(context), scores_of(context)
    if config.method == "uniform":
        on_first_rank(lambda: run.search.unlink(missing_ok=True))
        return make_plan(scores, config, prompt)

    def work(judge: OutputJudge) -> tuple[PruningPlan, dict]:
        with progress("search", "plans", config.evaluations) as advance_to:
            return searched(judge, scores, config, prompt, advance_to)

    made, trace = judge_with(context, "answers", work)
    on_first_rank(lambda: write_text(run.search, json.dumps(trace, indent=1) + "\n"))
    return made


def judge_with(context: Context, name: str, work: Callable[[OutputJudge], Any]) -> Any:
    """Give work a judge that knows the base model's answers to the calibration prompts; its result."""
    judging = JudgingModule(context.module.model, work, context.module.max_new_tokens)
    trainer = context.trainers.for_calibration(name)
    trainer.validate(judging, dataloaders=context.data.calibration_dataloader(), verbose=False)
    return judging.result


def study(context: Context) -> str:
    """What each kind of pruning changes by itself, and how many samples are enough.

    Gives ``curves.json`` and, in a single process, ``stability.json``.
    """
    context.to_base()
    config, scores, prompt = seeded(context), scores_of(context), typical_prompt(context)
    run, points = context.run, number_of_points(scores.dims.layers)

    def work(judge: OutputJudge) -> dict[str, Any]:
        sizes = possible_sizes(scores.n_samples // BLOCK) if rank_and_world()[1] == 1 else []
        plans = points + 2 * SPLITS * len(sizes)
        with progress("study", "plans", plans) as advance_to:
            found = {"curves": curves(judge, scores, prompt, config.seed, advance_to)}
            if sizes:
                measured = [calibrate(judge.model, [block]) for block in blocks(context)]
                found["stability"] = stability(measured, judge, config, prompt, lambda done: advance_to(points + done))
        return found

    found = judge_with(context, "answers", work)
    for name, file in (("curves", run.curves), ("stability", run.stability)):
        if name in found:
            on_first_rank(partial(write_text, file, json.dumps(found[name], indent=1) + "\n"))
    say_enough = "stability: needs one process and 16 samples or more"
    if "stability" in found:
        enough, largest = found["stability"]["enough"], found["stability"]["sizes"][-1]["samples"]
        say_enough = f"{enough} samples are enough" if enough else f"more than {largest} samples are needed"
    return f"{points} plans judged; {say_enough}"


def blocks(context: Context) -> Iterator[dict[str, Any]]:
    """The calibration prompts in blocks of `BLOCK` samples, on the model's device."""
    rows, collate = context.data.rows("calibration"), EvalCollator(context.module.processor)
    device = entry_device(context.module.model)
    for start in range(0, len(rows) - BLOCK + 1, BLOCK):
        inputs = model_inputs(collate([rows[index] for index in range(start, start + BLOCK)]))
        yield {name: value.to(device) for name, value in inputs.items()}


@contextmanager
def progress(name: str, unit: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on the first rank, nothing on the others."""
    if not is_first_rank():
        yield lambda done: None
        return
    with Bar(name, unit, total) as bar:
        yield bar.advance_to


def seeded(context: Context) -> PlanConfig:
    """How to prune, with the run's seed."""
    config = context.module.pruning
    return replace(config, seed=config.seed + context.seed)


def scores_of(context: Context) -> Scores:
    """What calibration measured, on this model."""
    scores = Scores.load(context.run.scores)
    check_same_model(scores, context.module.model, str(context.run.scores))
    return scores


def typical_prompt(context: Context) -> Prompt:
    """The shape of a typical calibration prompt."""
    module = context.module
    return prompt_of(module.model, typical_batch(module.model, module.processor, context.data.rows("calibration")))


def refuse_other_plan(made: PruningPlan, run: RunFolder) -> None:
    """Raise a ``UserError`` where the run holds weights that were trained under another plan."""
    trained = run.results().get("train", {}).get("plan", made.id)
    if is_trained(run) and trained != made.id:
        raise UserError(
            f"run_dir {run} holds weights trained under plan {trained}, but its plan is now {made.id}: choose another "
            "run_dir, or delete adapter/, model/ and checkpoints/ there"
        )


def is_trained(run: RunFolder) -> bool:
    """Whether the run holds finetuned weights."""
    return run.adapter.is_dir() or run.model.is_dir()
