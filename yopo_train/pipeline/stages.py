"""The stages of a run. Each knows its output, and is not done again where that is there."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import seed_everything

from yopo_train.bench import Options, compare
from yopo_train.evaluation.scorer import GenerationScorer
from yopo_train.models import model_inputs
from yopo_train.pipeline.answers import answering, take_answers
from yopo_train.pipeline.benchmarks import BenchmarksOf, is_scored, training_callbacks
from yopo_train.pipeline.checkpoints import checkpoint_to_continue
from yopo_train.pipeline.context import Context, say
from yopo_train.pipeline.environment import describe_environment
from yopo_train.pipeline.planning import TUNED_SCORES, calibration, is_trained, planning, study
from yopo_train.pipeline.prompt import typical_batch
from yopo_train.plan import PruningPlan
from yopo_train.pruning import active_plan, unprune
from yopo_train.ranks import of_first_rank, on_first_rank, wait_for_all
from yopo_train.recovery import save_adapter
from yopo_train.recovery.freezing import may_be_unused
from yopo_train.recovery.sharding import is_sharded, whole_weights
from yopo_train.recovery.zero import DeepSpeed
from yopo_train.run_folder import RunFolder, new_folder

BENCH_REPEATS, BENCH_BATCH = 10, 8


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Parameters
    ----------
    name
        What it is called.
    about
        One line for the user.
    is_done
        Whether its output is in the run folder.
    work
        Does it, and says in one line what came out.
    """

    name: str
    about: str
    is_done: Callable[[RunFolder], bool]
    work: Callable[[Context], str]


def run_stages(context: Context, stages: Sequence[Stage]) -> None:
    """Do the stages that are not done yet, in order."""
    for number, stage in enumerate(stages, start=1):
        headline = f"[{number}/{len(stages)}] {stage.name}: "
        if of_first_rank(stage.is_done(context.run)):
            say(f"{headline}done already")
            continue
        say(headline + stage.about)
        started = time.perf_counter()
        outcome = stage.work(context)
        wait_for_all()
        say(f"      {outcome} ({time.perf_counter() - started:.1f} s)")
        context.record("environment", describe_environment() | {"command": context.command})


def fit_stages(context: Context) -> list[Stage]:
    """All stages of ``fit``; without any training it ends after the training-free score."""
    module, final = context.module, context.final_stage
    stages = [*plan_stages(context)] if module.prunes else []
    if module.prunes or module.tuning != "full":  # a model trained from scratch has no base worth scoring
        stages += score_stages(context, "base", "the base model answers the test questions")
    if module.prunes:
        stages += score_stages(context, "pruned", "the pruned model answers them, without any training")
    # the reference backend computes what it masks, and a model that is offloaded mostly waits for its weights
    if module.prunes and module.backend == "compact" and not module.is_placed:
        stages.append(Stage("bench", "prefill time of base and pruned", _recorded("bench"), bench))
    if context.trains:
        if module.has_teacher:
            about = "the base model answers training questions that have no answer"
            stages.append(Stage("answers", about, lambda run: run.answers.is_file(), answering))
        stages.append(Stage("train", f"{module.tuning} finetuning", is_trained, train))
        stages += score_stages(context, final, f"the {final} model answers the test questions")
    return stages


def plan_stages(context: Context) -> list[Stage]:
    """Calibration and plan, or the plan alone where one is given."""
    given = context.module.plan_file
    if given is not None:
        return [Stage("plan", f"taken from {given}", lambda run: run.plan.is_file(), planning)]
    return [
        Stage("calibrate", "what does the model do with images?", lambda run: run.scores.is_file(), calibration),
        Stage("plan", "which heads and channels stay?", lambda run: run.plan.is_file(), planning),
    ]


# -- score ------------------------------------------------------------------------------------------------------------
def study_stages(context: Context) -> list[Stage]:
    """Calibration, and what each choice of a plan would change."""
    calibrate, _ = plan_stages(context)
    return [
        calibrate,
        Stage("curves", "what does each kind of pruning change?", lambda run: run.curves.is_file(), study),
    ]


def score_stages(context: Context, stage: str, about: str) -> list[Stage]:
    """Answers to the test questions, and their accuracy; and those to the benchmarks, where there are any."""
    done = _recorded(f"test.{stage}")
    stages = [Stage(f"score {stage}", about, done, lambda context: score(context, stage, "test"))]
    names = context.evaluation.names
    if names and stage in context.evaluation.stages:
        context.benchmarks = tuple(names)
        asks, scored = f"the {stage} model answers {', '.join(names)}", is_scored(context, stage)
        stages.append(Stage(f"benchmarks {stage}", asks, scored, lambda context: score_benchmarks(context, stage)))
    return stages


def score_benchmarks(context: Context, stage: str, again: bool = False) -> str:
    """Score the model at a stage on the benchmarks.

    Gives ``predictions/<stage>/<benchmark>.jsonl`` and entries of ``results.json``.

    Parameters
    ----------
    again
        Also those that have a score.
    """
    benchmarks = BenchmarksOf(context, stage)
    return benchmarks.score(context.evaluation.names if again else benchmarks.missing)


def score(context: Context, stage: str, split: str) -> str:
    """Score the model at a stage on the split ``test`` or ``validate``.

    Gives ``predictions/<stage>.jsonl`` (``validate-<stage>.jsonl``) and an entry of ``results.json``.
    """
    context.to_stage(stage)
    name = stage if split == "test" else f"{split}-{stage}"
    scorer = GenerationScorer(context.run.predictions, stage=name, max_new_tokens=context.module.max_new_tokens)
    trainer = context.trainers.for_reading(f"score {stage}", scorer)
    started = time.perf_counter()
    getattr(trainer, split)(context.module, datamodule=context.data, verbose=False)
    found = scorer.results[name]
    kinds = {key.removeprefix("accuracy/"): value for key, value in found.items() if key.startswith("accuracy/")}
    wait_for_all()
    samples = (context.run.predictions / f"{name}.jsonl").read_text("utf-8").count("\n")
    result = {"accuracy": found["accuracy"], "kinds": kinds, "samples": samples}
    context.record(f"{split}.{stage}", result | {"seconds": time.perf_counter() - started})
    return f"accuracy {100 * found['accuracy']:.1f} % on {samples} questions"


def predict(context: Context, stage: str) -> str:
    """Answer the test questions; gives ``predictions/predict-<stage>.jsonl``."""
    context.to_stage(stage)
    name = f"predict-{stage}"
    scorer = GenerationScorer(context.run.predictions, stage=name, max_new_tokens=context.module.max_new_tokens)
    trainer = context.trainers.for_reading("predict", scorer)
    trainer.predict(context.module, datamodule=context.data, return_predictions=False)
    return f"answers in {context.run.predictions / name}.jsonl"


# -- train ------------------------------------------------------------------------------------------------------------
def train(context: Context) -> str:
    """Gives ``adapter/`` or, in full mode, ``model/``; goes on from the last checkpoint."""
    context.to_pruned()
    module, run = context.module, context.run
    if module.has_teacher:
        take_answers(context)
    seed_everything(context.seed, workers=True)  # the same training, whichever stages ran before
    module.start_tuning()
    checkpoint = checkpoint_to_continue(run, context.ckpt_path)
    if checkpoint is not None:
        say(f"      continued from {checkpoint}")
    scorer = GenerationScorer(run.predictions, max_new_tokens=module.max_new_tokens)
    callbacks = [scorer, *training_callbacks(context)]
    trainer = context.trainers.for_training("train", *callbacks, all_weights=may_be_unused(module.model))
    started = time.perf_counter()
    trainer.fit(module, datamodule=context.data, ckpt_path=checkpoint)
    # weights that are saved in another type are read back: what is scored is what is there to be used
    sharded = is_sharded(module.model)
    changed = sharded or isinstance(trainer.strategy, DeepSpeed)  # which leaves it in the type that it computed in
    context.tuned = (module.tuning == "lora" or module.save_dtype is None) and not changed
    module.model.eval()
    under = active_plan(module.model)
    result = {
        "tuning": module.tuning,
        "plan": under.id if under is not None else None,
        "steps": trainer.global_step,
        "seconds": time.perf_counter() - started,
        "trainable": sum(weight.numel() for weight in module.trainable().values()),
        "parameters": sum(weight.numel() for weight in module.parameters()),
    }
    context.record("train", result)
    context.forget(*TUNED_SCORES)  # of a training that was here before
    weights = whole_weights(module.model, module.tuning == "lora") if sharded else None
    on_first_rank(lambda: save_tuned(context, weights))
    if changed:
        module.model = None  # what comes next needs all of it, in the base's own type: it is loaded again
    return f"{result['steps']} steps, saved in {run.adapter if module.tuning == 'lora' else run.model}"


def save_tuned(context: Context, weights: dict[str, torch.Tensor] | None) -> None:
    """Write what training made, in the base model's own order; ``weights`` where the model has only shards of them."""
    module, run = context.module, context.run
    if module.tuning == "lora":
        save_adapter(module.model, run.adapter, module.base, module.revision, weights)
        return
    weights = weights or module.model.state_dict()
    if module.save_dtype is not None:
        weights = {name: weight.to(getattr(torch, module.save_dtype)) for name, weight in weights.items()}
    with new_folder(run.model) as folder:
        module.model.save_pretrained(folder, state_dict=weights)
        module.processor.save_pretrained(folder)


# -- bench ------------------------------------------------------------------------------------------------------------
def bench(context: Context) -> str:
    """Prefill time of the base and the pruned model, in turns, on the first rank.

    Measured on a batch of equal prompts: a single one of a tiny model would time Python, not the model.
    """
    context.to_base()
    on_first_rank(lambda: context.run.record("bench", measure(context)))
    found = context.run.results().get("bench", {})
    if not found:
        return "measured on the first rank"
    base, pruned = found["base"]["prefill"], found["pruned"]["prefill"]
    return f"base {base:.2f} ms, pruned {pruned:.2f} ms: {found['speedup']:.2f} times faster"


def measure(context: Context) -> dict[str, Any]:
    """What `bench` measures, for ``results.json``; the model is left unpruned, on the device where it was."""
    model, data = unprune(context.module.model), context.data
    home = next(model.parameters()).device
    device = context.trainers.for_calibration("bench").strategy.root_device
    prompt = model_inputs(typical_batch(model, context.module.processor, data.rows("calibration")))
    inputs = {name: torch.cat([value] * BENCH_BATCH).to(device) for name, value in prompt.items()}
    try:
        result = compare(model.to(device), inputs, PruningPlan.load(context.run.plan), Options(BENCH_REPEATS))
    finally:
        model.to(home)
    return result.as_dict()


def _recorded(section: str) -> Callable[[RunFolder], bool]:
    """Whether ``results.json`` has the section."""

    def is_done(run: RunFolder) -> bool:
        place: Any = run.results()
        for name in section.split("."):
            place = place.get(name, {})
        return bool(place)

    return is_done
