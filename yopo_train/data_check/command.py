"""The command: look at the data, estimate what training needs, and say whether a fit would start."""

import json
from pathlib import Path
from typing import Any

from yopo_train.data.lengths import Lengths
from yopo_train.data.rows import Rows
from yopo_train.data_check.estimate import empty_model, memory, processes, training_steps
from yopo_train.data_check.gather import bad_rows, batch_tokens, gather
from yopo_train.data_check.probe import probe
from yopo_train.data_check.show import show
from yopo_train.errors import UserError, first_line
from yopo_train.models.loading import LOAD_ERRORS, load_config
from yopo_train.models.processors import load_processor
from yopo_train.pipeline import Context
from yopo_train.plan import PruningPlan
from yopo_train.recovery import YopoModule
from yopo_train.run_folder import write_text


def check_data(context: Context, decode: int, samples: int, probes: bool, file: str | None) -> None:
    """Print what was found, write it to ``file`` as JSON, and refuse what a fit would refuse; no run folder is touched.

    Raises
    ------
    UserError
        A split that the run needs is missing or unusable, or rows are bad and `data.strict` is true.
    """
    if decode < 0 or samples < 0:
        raise UserError(f"--decode and --samples are {decode} and {samples}, expected 0 or more")
    module, data, needed = context.module, context.data, needed_splits(context)
    data.processor = _processor(module)
    report, training = gather(data, needed, decode, samples)
    report["strict"], report["bad_rows"] = data.strict, bad_rows(report, needed)
    if training is not None and "train" in needed:
        would_start = not report["problems"] and not (data.strict and report["bad_rows"])
        report |= _training(context, *training, probes and would_start)
    for split in needed:
        found = report["splits"].get(split)
        if found is not None and not found["rows"]["used"]:
            report["problems"].append(f"{split}: no row can be used")
    show(report)
    if file is not None:
        write_text(Path(file), json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    if report["problems"]:
        raise UserError(f"data: {report['problems'][0]}")
    if report["bad_rows"] and data.strict:
        raise UserError(f"data: {report['bad_rows']} bad rows, expected none (data.strict: false skips them)")


def needed_splits(context: Context) -> tuple[str, ...]:
    """What a fit of this configuration reads."""
    module, (steps, epochs) = context.module, context.trainers.limits
    trains = module.tuning != "none" and steps != 0 and epochs != 0
    validates = trains and context.trainers.settings.get("limit_val_batches") != 0
    calibrates = module.prunes and module.plan_file is None
    wanted = {"train": trains, "calibration": calibrates, "validation": validates, "test": True}
    return tuple(split for split, is_needed in wanted.items() if is_needed)


def _processor(module: YopoModule) -> Any:
    config = load_config(module.base, module.revision)
    try:
        return load_processor(module.base, config, module.revision)
    except UserError:
        raise
    except LOAD_ERRORS as error:
        raise UserError(f"cannot load the processor of {module.base!r}: {first_line(error)}") from error


def _training(context: Context, rows: Rows, lengths: Lengths, probes: bool) -> dict[str, Any]:
    """Batches, steps, memory and time."""
    data, module, settings = context.data, context.module, context.trainers.settings
    sampler, world = data.train_sampler(rows, lengths), processes(settings)
    order = sampler.order(world).numpy()
    found = batch_tokens(lengths, order[: len(order) - len(order) % world : world], data.batch_size)
    steps = training_steps(sum(sampler.visits), data.batch_size, world, settings)
    plan = _plan(context)
    needs = memory(module, empty_model(module), plan, found["largest_batch"], settings.get("precision"))
    return {"batches": found, "steps": steps, "memory": needs, "time": _time(context, plan, steps, probes)}


def _plan(context: Context) -> PruningPlan | None:
    """The plan of the run, where it is decided."""
    for file in (context.run.plan, context.module.plan_file):
        if file is not None and Path(file).is_file():
            return PruningPlan.load(file)
    return None


def _time(context: Context, plan: PruningPlan | None, steps: dict[str, Any], probes: bool) -> dict[str, Any]:
    """Hours, from steps that were measured; unknown where none were."""
    if not probes:
        return {"hours": None, "text": "unknown; --probe loads the model and measures a few steps"}
    found = probe(context, plan)
    if found["step_seconds"] is None:
        return found | {"hours": None, "text": "unknown: an epoch has too few steps to measure one"}
    under = f"plan {plan.id}" if plan is not None else "nothing pruned" + " yet" * context.module.prunes
    measured = f"{found['step_seconds']:.3f} s a step (median of {found['steps']} on {found['device']}, {under})"
    if steps["steps"] is None:
        return found | {"hours": None, "text": f"{measured}; neither max_steps nor max_epochs is set"}
    hours = steps["steps"] * found["step_seconds"] / 3600
    others = ", if other processes do not slow it down" if steps["processes"] > 1 else ""
    return found | {"hours": hours, "text": f"{hours:.2f} h for {steps['steps']} steps: {measured}{others}"}
