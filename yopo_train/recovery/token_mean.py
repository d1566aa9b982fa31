"""One mean over all labelled tokens of an optimizer step, however many processes and batches they are spread over.

Every framework averages what it can see: a process its batch, DDP the processes' gradients, the trainer the batches of
an accumulation. A mean of means weighs a token the more, the fewer labelled tokens its batch has. Here it does not: two
processes with batch B take the step of one process with batch 2B, and so do two accumulated batches.
"""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from yopo_train.ranks import rank_and_world
from yopo_train.recovery.loss import TokenSums


class TokenMean:
    """Turns sums into what `backward` needs.

    With S the sum of a batch and N its labelled tokens on all W processes, backward gets S W / N: DDP (FSDP, DeepSpeed)
    averages gradients, so theirs is that of the mean. The first batch's N serves all batches of an accumulation, so
    that gradients stay of the size of a mean's; `settle` then puts all batches' tokens in its place.
    """

    def __init__(self) -> None:
        self._first: Tensor | None = None  # None is the beginning of a step
        self._sums: dict[str, Tensor] = {}
        self._tokens = torch.zeros(())
        self._batches = 0

    def add(self, sums: TokenSums) -> Tensor:
        """A batch's loss to call ``backward`` on."""
        named = {"tokens": sums.tokens, "loss": sums.total.detach(), **sums.parts}
        together = torch.stack([number.float() for number in named.values()])
        _, world = rank_and_world()
        if world > 1:
            dist.all_reduce(together)
        found = dict(zip(named, together.unbind(), strict=True))
        if self._first is None:
            self._first, self._batches = found["tokens"].clamp(min=1), 0
            self._sums = dict.fromkeys(found, 0.0)
        self._sums = {name: self._sums[name] + value for name, value in found.items()}
        self._tokens = self._sums["tokens"].clamp(min=1)
        self._batches += 1
        return sums.total * world / self._first

    @property
    def means(self) -> dict[str, Tensor]:
        """Mean ``loss`` of the optimizer step so far, over all its batches and processes, and the means of its parts.

        Scalars, float32.
        """
        return {name: value / self._tokens for name, value in self._sums.items() if name != "tokens"}

    def settle(self, gradients: Iterable[Tensor], averaged_over: int) -> None:
        """Scale the gradients of an accumulation, in place, and begin the next one.

        Parameters
        ----------
        averaged_over
            By how many the trainer has divided the loss of each batch.
        """
        if self._first is not None and (self._batches, averaged_over) != (1, 1):
            factor = float(averaged_over * self._first / self._tokens)
            with torch.no_grad():
                for gradient in gradients:
                    gradient.mul_(factor)
        self._first = None
