"""Work on an `OutputJudge` under Lightning: on the trainer's device, over its ranks."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lightning.pytorch import LightningModule
from torch import nn

from yopo_train.calibration.auto import PlanSearch
from yopo_train.calibration.judge import OutputJudge
from yopo_train.calibration.plan_config import PlanConfig
from yopo_train.calibration.scores import Scores
from yopo_train.cost import Grid, Prompt
from yopo_train.models.offload import is_dispatched
from yopo_train.plan import PruningPlan


class JudgingModule(LightningModule):
    """Gathers the base model's answers in one validation epoch, and does its work with them at the end of it.

    Parameters
    ----------
    model
        The stock multimodal model, unpruned.
    work
        What is done with the judge; every rank does the same.
    answer_tokens
        Longest answer.
    """

    def __init__(self, model: nn.Module, work: Callable[[OutputJudge], Any], answer_tokens: int) -> None:
        super().__init__()
        if is_dispatched(model):
            self.__dict__["model"] = model  # not a submodule: Lightning would move it
        else:
            self.model = model
        self.work, self.answer_tokens = work, answer_tokens
        self.result: Any = None
        self._judge: OutputJudge | None = None

    def on_validation_epoch_start(self) -> None:
        self._judge = OutputJudge(self.model, self.answer_tokens)

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Let the base model answer a batch of left padded prompts."""
        self._judge.add(batch)

    def on_validation_epoch_end(self) -> None:
        self.result = self.work(self._judge)
        self._judge = None  # it holds the prompts and the base model's distributions


def search_plan(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    scores: Scores,
    config: PlanConfig,
    prompt: Prompt | list[Grid],
    answer_tokens: int = 16,
) -> tuple[PruningPlan, dict]:
    """Search the plan that changes the model's answers least (``method: auto``).

    Parameters
    ----------
    model
        The stock multimodal model, unpruned, in evaluation mode; it is so again afterwards.
    batches
        **Left** padded prompts on the model's device: ``input_ids`` and ``attention_mask`` ``(batch, tokens)``, image
        inputs. ``labels`` and ``meta`` are ignored.
    scores
        What `calibrate` measured on the model.
    config
        The budget, and how many plans may be tried.
    prompt
        A typical prompt, or the grids of its images where only visual FLOPs count.
    answer_tokens
        Longest answer that plans are judged on.

    Returns
    -------
    (PruningPlan, dict)
        The plan, and every plan that was tried.

    Raises
    ------
    UserError
        A pruned model, prompts padded at the right, a wrong value in ``config``, or a budget that no plan meets.
    """
    judge = OutputJudge(model, answer_tokens)
    for batch in batches:
        judge.add(batch)
    return searched(judge, scores, config, prompt)


def searched(
    judge: OutputJudge,
    scores: Scores,
    config: PlanConfig,
    prompt: Prompt | list[Grid],
    on_evaluation: Callable[[int], None] = lambda done: None,
) -> tuple[PruningPlan, dict]:
    """The plan of a search, and its trace; see `PlanSearch`."""
    search = PlanSearch(judge, scores, config, prompt, on_evaluation)
    return search.run(), search.trace()
