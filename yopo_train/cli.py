"""The command line: a LightningCLI whose subcommands are stages of one run folder.

    yopo-train fit --config configs/tiny.yaml
    yopo-train plan --config configs/tiny.yaml --model.pruning.preset paper-12 --run_dir runs/twelve
    yopo-train test --config runs/tiny/config.yaml --stage base

Every subcommand takes the same sections: see ``cli_sections``.
"""

import sys
from typing import Literal

from lightning.pytorch.utilities.exceptions import SIGTERMException

from yopo_train.cli_errors import known_error, quiet, report
from yopo_train.cli_sections import SectionsCLI
from yopo_train.commands import PLAIN_COMMANDS, as_subcommand
from yopo_train.errors import UserError
from yopo_train.hub.push_run import finish_push, prepare_push
from yopo_train.pipeline import (
    fit_stages,
    plan_stages,
    predict,
    run_stages,
    say,
    score,
    score_benchmarks,
    study_stages,
)
from yopo_train.pipeline.checkpoints import check_checkpoint
from yopo_train.pipeline.signals import terminable, terminated
from yopo_train.plan import PruningPlan
from yopo_train.ranks import on_first_rank
from yopo_train.summary import score_table, write_summary

SUBCOMMANDS = ("fit", "calibrate", "plan", "curves", "validate", "test", "predict", "data_check")
DESCRIPTION = (
    "Prune the visual computation of a multimodal LLM once, recover its accuracy with a short finetune. "
    f"More commands take no configuration: {', '.join(' '.join(words) for words in PLAIN_COMMANDS)}."
)
StageName = Literal["base", "pruned", "recovered", "trained"]


class YopoCLI(SectionsCLI):
    """The subcommands: public methods whose arguments are, beside the sections, the command's own options."""

    def __init__(self, args: list[str]) -> None:
        super().__init__(args, DESCRIPTION)

    # -- subcommands ----------------------------------------------------------------------------------------------
    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Names of the subcommands; no method argument is hidden."""
        return {name: set() for name in SUBCOMMANDS}

    def fit(self, ckpt_path: str = "last") -> None:
        """The whole run: calibrate, plan, prune, score, recover, score, save. Stages already done are skipped.

        Args:
            ckpt_path: What training goes on from. last: the run folder's last checkpoint, or the beginning where there
                is none yet. none: the beginning. Or a checkpoint file of a training with the same settings.
        """
        check_checkpoint(self.context.run, ckpt_path)
        self.context.ckpt_path = ckpt_path
        steps, epochs = self.context.trainers.limits
        trains = self.model.tuning != "none" and steps != 0 and epochs != 0
        if trains and steps in (None, -1) and epochs in (None, -1):
            raise UserError("trainer.max_steps and trainer.max_epochs are both unset, expected one of them")
        splits = {"calibration": self.model.prunes, "test": True, "train": trains}
        self.context.trains, self.context.splits = trains, tuple(name for name, needed in splits.items() if needed)
        hub = self._get(self.config_init, "hub")
        prepare_push(self.context, hub)
        stages = fit_stages(self.context)
        if not stages:
            raise UserError("nothing to do: model.pruning is null and nothing is to be trained")
        run_stages(self.context, stages)
        on_first_rank(self._finish)
        finish_push(self.context, hub)

    def calibrate(self) -> None:
        """Measure what the base model does with images: scores.safetensors in the run folder."""
        run_stages(self.context, self._plan_stages()[:-1])

    def plan(self) -> None:
        """Decide what to prune: plan.safetensors in the run folder. Calibrates first where there are no scores yet."""
        run_stages(self.context, self._plan_stages())
        say(PruningPlan.load(self.context.run.plan).describe())
        on_first_rank(self._report)

    def curves(self) -> None:
        """Study what each kind of pruning changes in the answers, and how many samples are enough: report.html."""
        if self.model.plan_file is not None:
            raise UserError(f"model.plan is {self.model.plan_file}, expected model.pruning for curves")
        self._check_prunes()
        run_stages(self.context, study_stages(self.context))
        on_first_rank(self._report)

    def validate(self, stage: StageName | None = None) -> None:
        """Score the model on the validation questions.

        Args:
            stage: Which model of the run. The furthest that the run folder has, unless given.
        """
        self._score(stage, "validate")

    def test(self, stage: StageName | None = None) -> None:
        """Score the model on the test questions, and on the benchmarks of the section evaluation.

        Args:
            stage: Which model of the run. The furthest that the run folder has, unless given.
        """
        self._score(stage, "test")

    def predict(self, stage: StageName | None = None) -> None:
        """Answer the test questions: predictions/predict-<stage>.jsonl in the run folder.

        Args:
            stage: Which model of the run. The furthest that the run folder has, unless given.
        """
        self.context.splits = ("test",)
        say(predict(self.context, self._stage(stage)))

    def data_check(self, decode: int = 256, samples: int = 3, probe: bool = False, json: str | None = None) -> None:
        """Look at the data before any training (data check): rows, faults, tokens, images, samples, memory, steps.

        Args:
            decode: Rows of each split whose images are decoded; 0 is all. Of the others the headers are read.
            samples: Training rows that are shown, trained tokens highlighted.
            probe: Load the model and measure a few steps, for an estimate of the hours.
            json: File to write the report to.
        """
        from yopo_train.data_check import check_data

        check_data(self.context, decode, samples, probe, json)

    def _score(self, wanted: StageName | None, split: str) -> None:
        stage = self._stage(wanted)
        self.context.splits = ("test" if split == "test" else "validation",)
        self.context.benchmarks = tuple(self.context.evaluation.names) if split == "test" else ()
        say(f"{split} {stage}: {score(self.context, stage, split)}")
        if self.context.benchmarks:
            say(f"benchmarks {stage}: {score_benchmarks(self.context, stage, again=True)}")
        on_first_rank(lambda: self._show_score(stage, split))

    def _show_score(self, stage: str, split: str) -> None:
        """The table of one stage; on the first rank only, which has just written what this reads."""
        run = self.context.run
        score_table({stage: run.results()[split][stage]}).show(str(run))
        if split == "test":
            for table in write_summary(run)[1:]:
                table.show(str(run))

    def _stage(self, wanted: StageName | None) -> str:
        """The stage that is asked for, or the furthest one there is."""
        context = self.context
        final, run = context.final_stage, context.run
        there = {"base": True, "pruned": run.plan.is_file(), final: run.adapter.is_dir() or run.model.is_dir()}
        if wanted is None:
            return [stage for stage, is_there in there.items() if is_there][-1]
        if not there.get(wanted):
            found = ", ".join(stage for stage, is_there in there.items() if is_there)
            raise UserError(f"--stage is {wanted}, but run_dir {run} has only: {found}")
        return wanted

    def _plan_stages(self) -> list:
        self._check_prunes()
        return plan_stages(self.context)

    def _check_prunes(self) -> None:
        if not self.model.prunes:
            raise UserError("model.pruning is null, expected how to prune (see configs/tiny.yaml)")
        self.context.splits = ("calibration",)

    def _finish(self) -> None:
        run = self.context.run
        for table in write_summary(run):
            table.show(str(run))
        say(str(run.summary))
        self._report()

    def _report(self) -> None:
        """The plots; of a run that has not calibrated those of its training alone."""
        from yopo_train.report.build import write_report  # loads matplotlib
        from yopo_train.report.training import write_training_plot

        run = self.context.run
        written = write_report(run.path) if run.scores.is_file() else write_training_plot(run)
        if written is not None:
            say(str(written))


STAGED = ("fit", "calibrate", "plan", "curves")
"""Commands whose finished stages, and checkpoints, serve the next time."""


def main(args: list[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    args
        What follows the program's name; None takes it from the shell.

    Returns
    -------
    int
        Exit code: 0, 2 for an error of the user's, 130 for ctrl-C, 143 for SIGTERM.
    """
    args = sys.argv[1:] if args is None else list(args)
    quiet()
    words = next((words for words in PLAIN_COMMANDS if tuple(args[: len(words)]) == words), None)
    how = "; the same command goes on from here" if args[:1] and args[0] in STAGED else ""
    try:
        with terminable():
            if words is not None:
                PLAIN_COMMANDS[words](args[len(words) :])
            else:
                YopoCLI(as_subcommand(args))
    except SIGTERMException:
        say(f"terminated{how}")
        return terminated()
    except KeyboardInterrupt:
        return _interrupted(how)
    except SystemExit as exit_:
        # Lightning turns ctrl-C into an exit
        return _interrupted(how) if isinstance(exit_.__context__, KeyboardInterrupt) else exit_.code or 0
    except Exception as error:
        known = known_error(error)
        if known is None:
            raise
        report(str(known))
        return 2
    return 0


def _interrupted(how: str) -> int:
    say(f"interrupted{how}")
    return 130
