"""What the stages of a run share, and how far its model has come."""

from dataclasses import dataclass, field
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from yopo_train.calibration.planner import check_dims
from yopo_train.data.module import VQADataModule
from yopo_train.errors import UserError
from yopo_train.evaluation.options import EvaluationOptions
from yopo_train.models import family_of
from yopo_train.pipeline.trainers import TrainerFactory
from yopo_train.plan import PruningPlan
from yopo_train.ranks import on_first_rank
from yopo_train.recovery import YopoModule, load_adapter, lora_targets
from yopo_train.run_folder import RunFolder


@dataclass
class Context:
    """One run.

    The model only goes forward: `to_base`, `to_pruned`, `to_tuned` each bring it to where a stage needs it, from memory
    or from the run folder's files, and do nothing where it is there already. Nothing is loaded for a stage that is
    skipped.

    Parameters
    ----------
    config
        The configuration as run, plain data.
    command
        What the user typed.
    seed
        The run's seed.
    splits
        Splits of the data that the command will read: checked, row by row, before anything is done.
    trains
        Whether there will be any training.
    ckpt_path
        The checkpoint that training goes on from: last, none or a file.
    evaluation
        Benchmarks, and when they are scored.
    benchmarks
        Those that the command will score: read, and so checked, before anything is done.
    """

    run: RunFolder
    module: YopoModule
    data: VQADataModule
    trainers: TrainerFactory
    config: dict[str, Any]
    command: str
    seed: int
    splits: tuple[str, ...] = ()
    trains: bool = False
    ckpt_path: str = "last"
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    benchmarks: tuple[str, ...] = ()
    _items: dict[str, list] = field(default_factory=dict, init=False)
    tuned: bool = field(default=False, init=False)

    @property
    def final_stage(self) -> str:
        """What the finetuned model is called."""
        return "recovered" if self.module.prunes else "trained"

    def to_base(self) -> None:
        """Load the base model, check what else can be checked beforehand, and only then write into the run folder.

        Raises
        ------
        UserError
            The base cannot be loaded, trainer, plan or adapter do not fit, or the data has bad rows; nothing is written
            then.
        """
        if self.module.model is not None:
            return
        processes = self.trainers.check()
        if self.trains:
            self.trainers.check_training(self.evaluation.names_in_training, self.module.optimizer_options.name)
        self._check_placement(processes)
        self.module.load()
        self.data.processor = self.module.processor
        for split in self.splits:
            self.data.rows(split)
        for name in self.benchmarks:
            self.benchmark_items(name)
        if self.module.plan_file is not None:
            self.module.given_plan()
        if self.module.pruning is not None:
            model = self.module.model
            check_dims(self.module.pruning, family_of(model).dims(model.config))
        if self.trains and self.module.tuning == "lora":
            lora_targets(self.module.model, self.module.lora_options)
        on_first_rank(lambda: self.run.claim(self.config, self.command))

    def benchmark_items(self, name: str) -> list[Any]:
        """What a benchmark asks, read once.

        Raises
        ------
        UserError
            It is not where the configuration says, or something in it is wrong.
        """
        if name not in self._items:
            self._items[name] = self.evaluation.items(name, self.seed)
        return self._items[name]

    def _check_placement(self, processes: int) -> None:
        """Refuse what a model that is spread over devices cannot do, before it is loaded."""
        if not self.module.is_placed or (processes == 1 and not self.trains):
            return
        needed = "to train (trainer.max_steps: 0 ends before)" if self.trains else f"in {processes} processes"
        found = self.module.placement["device_map"]
        raise UserError(f"model.device_map is {found}, expected null {needed}: its weights cannot be shared or changed")

    def to_pruned(self) -> None:
        """The base model under the run's plan, or the base model where nothing is pruned.

        Raises
        ------
        UserError
            There is no plan yet, or it is not for this model.
        """
        self.to_base()
        if self.module.prunes:
            self.module.prune_with(PruningPlan.load(self.run.plan))

    def to_tuned(self) -> None:
        """The finetuned model.

        Raises
        ------
        UserError
            There is none, or it does not fit.
        """
        if self.tuned:
            return
        if self.run.adapter.is_dir():
            if self.module.is_placed:
                found = self.module.placement["device_map"]
                raise UserError(f"model.device_map is {found}, expected null to load an adapter ({self.run.adapter})")
            self.to_pruned()
            self.module.model = load_adapter(self.module.model, self.run.adapter)
        elif self.run.model.is_dir():
            self.to_base()
            self.module.load(str(self.run.model))
            self.to_pruned()
        else:
            raise UserError(f"run_dir {self.run} holds no adapter and no model, expected a finished fit")
        self.tuned = True

    def to_stage(self, stage: str) -> None:
        """Bring the model to base, pruned, recovered or trained."""
        {"base": self.to_base, "pruned": self.to_pruned}.get(stage, self.to_tuned)()

    def record(self, section: str, value: Any) -> None:
        """Write a result, on the first rank."""
        on_first_rank(lambda: self.run.record(section, value))

    def forget(self, *sections: str) -> None:
        """Take results back that are no longer true, on the first rank."""
        on_first_rank(lambda: self.run.forget(*sections))


@rank_zero_only
def say(line: str) -> None:
    """One line to the user."""
    print(line, flush=True)
