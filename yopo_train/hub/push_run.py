"""The section ``hub`` in a fit: what is checked before, what happens during, and the push at the end."""

from yopo_train.errors import UserError
from yopo_train.hub.callback import PushBest
from yopo_train.hub.options import HubOptions
from yopo_train.hub.push import push_or_tell
from yopo_train.pipeline.context import Context
from yopo_train.ranks import on_first_rank


def prepare_push(context: Context, target: HubOptions) -> None:
    """Refuse what could not be pushed, before anything is done; and have the best adapters pushed during training.

    Raises
    ------
    UserError
        See `HubOptions.check`; or everything is trained, and an adapter is what is pushed.
    """
    target.check()
    if not target.push:
        return
    if context.trains and context.module.tuning != "lora":
        raise UserError(
            f"hub.push is true, but model.tuning is {context.module.tuning}, expected lora: a complete model is pushed "
            "with: yopo-train merge RUN OUT, and then: yopo-train push OUT"
        )
    if context.trains and target.each_best and not target.create_pr:
        context.trainers.callbacks.append(PushBest(context.run.path, target))


def finish_push(context: Context, target: HubOptions) -> None:
    """Push what the run made; it stays complete, with exit code 0, whatever the Hub says."""
    if target.push:
        on_first_rank(lambda: push_or_tell(context.run.path, target))
