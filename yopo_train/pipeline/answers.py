"""Unlabelled questions of a self-distillation: the base model answers them, greedily, before training begins.

Then they are rows as all others: their lengths are known, and a resumed run trains on the very same answers.
"""

import json
from typing import Any

from lightning.pytorch import LightningModule
from torch import nn

from yopo_train.errors import UserError
from yopo_train.evaluation.generation import generate_answers
from yopo_train.pipeline.context import Context
from yopo_train.pruning import dense_mode
from yopo_train.ranks import of_all_ranks, on_first_rank
from yopo_train.run_folder import write_text


class AnsweringModule(LightningModule):
    """Answers of the unpruned model to the prompts of one process, in their order: ``found``."""

    def __init__(self, model: nn.Module, processor: Any, max_new_tokens: int, use_cache: bool) -> None:
        super().__init__()
        self.model, self.processor = model, processor
        self.max_new_tokens, self.use_cache = max_new_tokens, use_cache
        self.found: list[str] = []

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        with dense_mode(self.model):
            self.found += generate_answers(self.model, self.processor, batch, self.max_new_tokens, self.use_cache)


def answering(context: Context) -> str:
    """Gives ``answers.jsonl``: number of the row, answer."""
    context.to_pruned()
    rows, module = context.data.rows("train"), context.module
    lacking, answers = rows.unanswered(), {}
    if lacking:
        tokens = module.distillation.answer_tokens
        answerer = AnsweringModule(module.model, module.processor, tokens, module.has_cache)
        trainer = context.trainers.for_calibration("answers")
        loader = context.data.prompt_dataloader(rows.select(lacking))
        trainer.validate(answerer, dataloaders=loader, verbose=False)
        numbers = [int(rows.index[place]) for place in lacking]
        answers = dict(zip(numbers, _in_order(answerer.found, len(lacking)), strict=True))
    lines = [json.dumps({"row": number, "answer": text}, ensure_ascii=False) + "\n" for number, text in answers.items()]
    on_first_rank(lambda: write_text(context.run.answers, "".join(lines)))
    return f"answered {len(answers)} of {len(rows)} training questions"


def _in_order(mine: list[str], number: int) -> list[str]:
    """Answers in the order of the rows, with which the processes have taken turns."""
    parts = of_all_ranks(mine)
    return [parts[place % len(parts)][place // len(parts)] for place in range(number)]


def take_answers(context: Context) -> None:
    """Give the training rows what `answering` has found.

    Raises
    ------
    UserError
        The file is damaged.
    """
    try:
        lines = context.run.answers.read_text("utf-8").split("\n")  # an answer may hold other kinds of line ends
        found = [json.loads(line) for line in lines if line]
        context.data.answer({entry["row"]: entry["answer"] for entry in found})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{context.run.answers}: damaged, expected lines of row and answer ({error})") from None
