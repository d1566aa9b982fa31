"""The sections of a configuration, and how LightningCLI is bent to them.

Every subcommand takes the same ones, so that a configuration made for one, or saved by one in its run folder, serves
all of them.
"""

import inspect
import shlex
from typing import Any

import yaml
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from yopo_train.cli_errors import OneLineParser, class_error
from yopo_train.commands import PROGRAM
from yopo_train.data.module import VQADataModule
from yopo_train.errors import UserError
from yopo_train.evaluation.options import EvaluationOptions
from yopo_train.hub.options import HubOptions
from yopo_train.pipeline import Context, TrainerFactory
from yopo_train.pipeline.checkpoints import CheckpointOptions
from yopo_train.pipeline.watch import WatchOptions
from yopo_train.recovery import YopoModule
from yopo_train.run_folder import RunFolder

OWN_SECTIONS = {
    "evaluation": EvaluationOptions,
    "checkpoint": CheckpointOptions,
    "watch": WatchOptions,
    "hub": HubOptions,
}
"""Sections that are no class of Lightning's."""
SECTIONS = ("seed_everything", "run_dir", "model", "data", "trainer", *OWN_SECTIONS)


class SectionsCLI(LightningCLI):
    """Parses the sections and makes a `Context` of them, then calls the method of the subcommand's name.

    Subcommands are methods of a subclass; their arguments, beside the sections, are the command's own options.

    Parameters
    ----------
    args
        What follows the program's name.
    description
        Of the program, for its help.
    """

    def __init__(self, args: list[str], description: str) -> None:
        self.command_line = shlex.join([PROGRAM, *args])
        super().__init__(
            YopoModule,
            VQADataModule,
            args=args,
            trainer_defaults={"num_sanity_val_steps": 0, "log_every_n_steps": 10},
            parser_class=OneLineParser,
            parser_kwargs={"prog": PROGRAM, "description": description},
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

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
        for name, options in OWN_SECTIONS.items():
            parser.add_class_arguments(options, name)

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

    def _parse_ckpt_path(self) -> None:
        """LightningCLI would read the whole checkpoint for hyperparameters, of which these have none."""

    def instantiate_classes(self) -> None:
        """Module, data and a factory of trainers, and the check of the run folder, which writes nothing."""
        try:
            self.config_init = self.parser.instantiate(self.config)
        except ValueError as error:
            raise class_error(error) from error
        self.model, self.datamodule = self._get(self.config_init, "model"), self._get(self.config_init, "data")
        self.datamodule.unanswered = self.model.has_teacher
        run, config = RunFolder(self._get(self.config, "run_dir")), self._plain_config()
        run.check(config)  # each of many processes: none may wait for a first one that has ended here
        options = (self._get(self.config_init, name) for name in ("checkpoint", "watch"))
        trainers = TrainerFactory(run, self._get(self.config_init, "trainer").as_dict(), *options, config)
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
