"""A run from base model to recovered adapter, stage by stage, in one run folder."""

from yopo_train.pipeline.context import Context, say
from yopo_train.pipeline.stages import (
    Stage,
    fit_stages,
    plan_stages,
    predict,
    run_stages,
    score,
    score_benchmarks,
    study_stages,
)
from yopo_train.pipeline.trainers import TrainerFactory

__all__ = [
    "Context",
    "Stage",
    "TrainerFactory",
    "fit_stages",
    "plan_stages",
    "predict",
    "run_stages",
    "say",
    "score",
    "score_benchmarks",
    "study_stages",
]
