"""The command line: a LightningCLI whose subcommands are stages of one run folder.

    yopo-train fit --config configs/tiny.yaml
    yopo-train plan --config configs/tiny.yaml --model.pruning.preset paper-12 --run_dir runs/twelve
    yopo-train test --config runs/tiny/config.yaml --stage base

Every subcommand takes the same sections (seed_everything, run_dir, model, data, trainer), so that a configuration made
for one, or saved by one in its run folder, serves all of them.
"""

import inspect
import shlex
import sys
from typing import Any, Literal

import yaml
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from yopo_train.cli_errors import OneLineParser, find_user_error, quiet, report
from yopo_train.commands import PLAIN_COMMANDS, PROGRAM
from yopo_train.data.module import VQADataModule
from yopo_train.errors import UserError
from yopo_train.pipeline import (
    Context,
    TrainerFactory,
    fit_stages,
    plan_stages,
    predict,
    run_stages,
    say,
    score,
    study_stages,
)
from yopo_train.pipeline.context import on_first_rank
from yopo_train.plan import PruningPlan
from yopo_train.recovery import YopoModule
from yopo_train.run_folder import RunFolder
from yopo_train.summary import score_table, write_summary

SECTIONS = ("seed_everything", "run_dir", "model", "data", "trainer")
DESCRIPTION = (
    "Prune the visual computation of a multimodal LLM once, recover its accuracy with a short finetune. "
    "Five more commands take no configuration: bench, compare, convert, plan show and report."
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
        return {name: set() for name in ("fit", "calibrate", "plan", "curves", "validate", "test", "predict")}

    def fit(self) -> None:
        """The whole run: calibrate, plan, prune, score, recover, score, save. Stages already done are skipped."""
        steps, epochs = self.context.trainers.limits
        trains = self.model.tuning != "none" and steps != 0 and epochs != 0
        if trains and steps in (None, -1) and epochs in (None, -1):
            raise UserError("trainer.max_steps and trainer.max_epochs are both unset, expected one of them")
        splits = {"calibration": self.model.prunes, "test": True, "train": trains}
        self.context.trains, self.context.splits = trains, tuple(name for name, needed in splits.items() if needed)
        stages = fit_stages(self.context)
        if not stages:
            raise UserError("nothing to do: model.pruning is null and nothing is to be trained")
        run_stages(self.context, stages)
        on_first_rank(self._finish)

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
        """Score the model on the test questions.

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

    def _score(self, wanted: StageName | None, split: str) -> None:
        stage = self._stage(wanted)
        self.context.splits = ("test" if split == "test" else "validation",)
        say(f"{split} {stage}: {score(self.context, stage, split)}")
        on_first_rank(lambda: self._show_score(stage, split))

    def _show_score(self, stage: str, split: str) -> None:
        """The table of one stage; on the first rank only, which has just written what this reads."""
        run = self.context.run
        score_table({stage: run.results()[split][stage]}).show(str(run))
        if split == "test":
            write_summary(run)

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
        write_summary(run).show(str(run))
        say(str(run.summary))
        self._report()

    def _report(self) -> None:
        """The plots; a run with a given plan has nothing to plot."""
        from yopo_train.report.build import write_report  # loads matplotlib

        if self.context.run.scores.is_file():
            say(str(write_report(self.context.run.path)))

    # -- how LightningCLI is bent ---------------------------------------------------------------------------------
    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Without abbreviations: a mistyped option must not become another one."""
        return super().init_parser(allow_abbrev=False, **kwargs)

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The key seed_everything, always a number: the run folder has to know it."""
        parser.add_argument("--seed_everything", type=int, default=0, help="Seed of everything that is random.")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The key run_dir; and one seed for everything."""
        parser.add_argument("--run_dir", type=str, required=True, help="Folder of the run; made if it does not exist.")
        parser.link_arguments("seed_everything", "data.seed")

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
        self.config_init = self.parser.instantiate(self.config)
        self.model, self.datamodule = self._get(self.config_init, "model"), self._get(self.config_init, "data")
        run, config = RunFolder(self._get(self.config, "run_dir")), self._plain_config()
        on_first_rank(lambda: run.check(config))
        trainers = TrainerFactory(run, self._get(self.config_init, "trainer").as_dict())
        seed = config["seed_everything"]
        self.context = Context(run, self.model, self.datamodule, trainers, config, self.command_line, seed)

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
        Exit code: 0, 2 for an error of the user's, 130 for ctrl-C.
    """
    args = sys.argv[1:] if args is None else list(args)
    quiet()
    try:
        words = next((words for words in PLAIN_COMMANDS if tuple(args[: len(words)]) == words), None)
        if words is not None:
            PLAIN_COMMANDS[words](args[len(words) :])
        else:
            YopoCLI(args)
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
