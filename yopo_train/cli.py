"""The command line: a LightningCLI whose subcommands are stages of one run folder.

    yopo-train fit --config configs/tiny.yaml
    yopo-train plan --config configs/tiny.yaml --model.pruning.preset paper-12 --run_dir runs/twelve
    yopo-train test --config runs/tiny/config.yaml --stage base

Every subcommand takes the same sections (seed_everything, run_dir, model, data, trainer, evaluation, checkpoint, watch,
hub), so that a configuration made for one, or saved by one in its run folder, serves all of them.
"""

import inspect
import shlex
import sys
from typing import Any, Literal

import yaml
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

from yopo_train.cli_errors import OneLineParser, class_error, find_user_error, quiet, report
from yopo_train.commands import PLAIN_COMMANDS, PROGRAM, as_subcommand
from yopo_train.data.module import VQADataModule
from yopo_train.errors import UserError
from yopo_train.evaluation.options import EvaluationOptions
from yopo_train.hub.options import HubOptions
from yopo_train.hub.push_run import finish_push, prepare_push
from yopo_train.pipeline import (
    Context,
    TrainerFactory,
    fit_stages,
    plan_stages,
    predict,
    run_stages,
    say,
    score,
    score_benchmarks,
    study_stages,
)
from yopo_train.pipeline.checkpoints import CheckpointOptions, check_checkpoint
from yopo_train.pipeline.context import is_first_rank, on_first_rank
from yopo_train.pipeline.signals import TERMINATED, terminable
from yopo_train.pipeline.watch import WatchOptions
from yopo_train.plan import PruningPlan
from yopo_train.recovery import YopoModule
from yopo_train.run_folder import RunFolder
from yopo_train.summary import score_table, write_summary

SUBCOMMANDS = ("fit", "calibrate", "plan", "curves", "validate", "test", "predict", "data_check")
SECTIONS = ("seed_everything", "run_dir", "model", "data", "trainer", "evaluation", "checkpoint", "watch", "hub")
DESCRIPTION = (
    "Prune the visual computation of a multimodal LLM once, recover its accuracy with a short finetune. "
    f"More commands take no configuration: {', '.join(' '.join(words) for words in PLAIN_COMMANDS)}."
)
StageName = Literal["base", "pruned", "recovered", "trained"]


class YopoCLI(LightningCLI):
    """Parses the sections, then calls the method of the subcommand's name.

    A subcommand is a public method below; its arguments, beside the sections, are the command's own options.
    """

    def __init__(self, args: list[str]) -> None:
        self.command_line = shlex.join([PROGRAM, *args])
        super().__init__(
            YopoModule,
            VQADataModule,
            args=args,
            trainer_defaults={"num_sanity_val_steps": 0, "log_every_n_steps": 10},
            parser_class=OneLineParser,
            parser_kwargs={"prog": PROGRAM, "description": DESCRIPTION},
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

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

    # -- how LightningCLI is bent ---------------------------------------------------------------------------------
    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Without abbreviations: a mistyped option must not become another one."""
        return super().init_parser(allow_abbrev=False, **kwargs)

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The key seed_everything, always a number: the run folder has to know it."""
        parser.add_argument("--seed_everything", type=int, default=0, help="Seed of everything that is random.")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The key run_dir, the sections that are no class of Lightning's, and one seed for everything."""
        parser.add_argument("--run_dir", type=str, required=True, help="Folder of the run; made if it does not exist.")
        parser.link_arguments("seed_everything", "data.seed")
        parser.add_class_arguments(EvaluationOptions, "evaluation")
        parser.add_class_arguments(CheckpointOptions, "checkpoint")
        parser.add_class_arguments(WatchOptions, "watch")
        parser.add_class_arguments(HubOptions, "hub")

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        """Subcommands from this class's methods; LightningCLI takes them from the Trainer's."""
        self._subcommand_parsers, self._subcommand_method_arguments = {}, {}
        commands = parser.add_subcommands()
        for name in self.subcommands():
            about = inspect.getdoc(getattr(type(self), name)).split("\n")[0]
            command = self.init_parser(description=about)
            self._add_arguments(command)
            self._subcommand_method_arguments[name] = command.add_method_arguments(type(self), name)
            self._subcommand_parsers[name] = command
            commands.add_subcommand(name, command, help=about)

    def parse_arguments(self, parser: LightningArgumentParser, args: list[str]) -> None:
        """As LightningCLI does, without a warning for arguments that do not come from the shell."""
        try:
            self.config = parser.parse_args(args)
        except UnicodeDecodeError as error:
            raise UserError(f"a file given with --config is not UTF-8 text: {error}") from None
        seed = self.config[self.config.subcommand].seed_everything
        if not 0 <= seed < 2**32:
            raise UserError(f"seed_everything is {seed}, expected 0 to {2**32 - 1}")

    def instantiate_classes(self) -> None:
        """Module, data and a factory of trainers, and the check of the run folder, which writes nothing."""
        try:
            self.config_init = self.parser.instantiate(self.config)
        except ValueError as error:
            raise class_error(error) from error
        self.model, self.datamodule = self._get(self.config_init, "model"), self._get(self.config_init, "data")
        self.datamodule.unanswered = self.model.has_teacher
        run, config = RunFolder(self._get(self.config, "run_dir")), self._plain_config()
        on_first_rank(lambda: run.check(config))
        options = (self._get(self.config_init, name) for name in ("checkpoint", "watch"))
        trainers = TrainerFactory(run, self._get(self.config_init, "trainer").as_dict(), *options)
        seed = config["seed_everything"]
        self.context = Context(run, self.model, self.datamodule, trainers, config, self.command_line, seed)
        self.context.evaluation = self._get(self.config_init, "evaluation")
        self.context.evaluation.check()

    def _plain_config(self) -> dict[str, Any]:
        """The sections as plain data: what config.yaml holds."""
        parser, config = self._parser(self.subcommand), self.config[self.subcommand]
        dumped = yaml.safe_load(parser.dump(config, skip_unset=False, format="yaml"))
        return {name: dumped[name] for name in SECTIONS}

    def _run_subcommand(self, subcommand: str) -> None:
        options = {name: self._get(self.config_init, name) for name in self._subcommand_method_arguments[subcommand]}
        getattr(self, subcommand)(**options)


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
    try:
        with terminable():
            words = next((words for words in PLAIN_COMMANDS if tuple(args[: len(words)]) == words), None)
            if words is not None:
                PLAIN_COMMANDS[words](args[len(words) :])
            else:
                YopoCLI(as_subcommand(args))
    except SIGTERMException:
        say("terminated; the same command goes on from here")
        return TERMINATED if is_first_rank() else 0  # Lightning kills the first rank when another one fails
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as exit_:
        # Lightning turns ctrl-C into an exit
        return _interrupted() if isinstance(exit_.__context__, KeyboardInterrupt) else exit_.code or 0
    except Exception as error:
        known = find_user_error(error)
        if known is None:
            raise
        report(str(known))
        return 2
    return 0


def _interrupted() -> int:
    say("interrupted; the same command goes on from here")
    return 130
