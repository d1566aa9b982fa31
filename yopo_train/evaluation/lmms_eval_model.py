"""The model that lmms-eval asks: ours, pruned or not. Needs lmms-eval installed; see `lmms_eval_plugin`."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages

from ..hub.load import load
from ..plan import PruningPlan
from ..pruning import prune
from ..recovery.adapter import load_adapter
from .lmms_eval_requests import answer_requests


class YopoChat(lmms):
    """``lmms_eval --model yopo --model_args pretrained=…,plan=…,adapter=…``

    Parameters
    ----------
    pretrained : str
        What `yopo_train.load` takes: Hub id or folder of a base model, of a merged one, of an adapter with its plan, or
        a run folder.
    plan : str, optional
        A plan.safetensors to prune a base model with.
    adapter : str, optional
        Folder of a LoRA adapter to put on a base model.
    revision : str, optional
        Branch, tag or commit of the base on the Hub.
    dtype : str
        auto, float32, bfloat16 or float16.
    backend : str
        compact or reference.
    device, batch_size, max_batch_size
        What lmms-eval gives. Under ``accelerate launch`` or ``torchrun`` each process takes the GPU of its local rank.

    Raises
    ------
    UserError
        Something is not there, or does not fit together.
    """

    is_simple = False  # lmms-eval's word for a model without chat messages

    def __init__(
        self,
        pretrained: str,
        plan: str | None = None,
        adapter: str | None = None,
        revision: str | None = None,
        dtype: str = "auto",
        backend: str = "compact",
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        given = torch.device(device) if device is not None else self.accelerator.device
        self._device = self.accelerator.device if self._world_size > 1 else given
        self.batch_size = int(batch_size) if str(batch_size).isdigit() else 1  # auto
        model, self.processor = load(pretrained, revision, dtype)
        if plan is not None:
            prune(model, PruningPlan.load(plan), backend)
        self._model = load_adapter(model, adapter) if adapter is not None else model
        self._model.to(self._device).eval()
        self.use_cache = plan is None or backend == "compact"

    @property
    def model(self) -> Any:
        """The model."""
        return self._model

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self._device

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Greedy answers, in the order of the requests."""

        def checked(messages: list[dict]) -> list[dict]:
            return ChatMessages(messages=messages).model_dump()["messages"]

        return answer_requests(
            self._model,
            self.processor,
            requests,
            self.task_dict,
            checked,
            batch_size=self.batch_size,
            use_cache=self.use_cache,
            progress="yopo" if self.rank == 0 else None,
        )

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Not for these tasks."""
        raise NotImplementedError("yopo answers by generation only: choose a task of output_type generate_until")

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """Not for these tasks."""
        raise NotImplementedError("yopo answers single questions only: choose a task of output_type generate_until")

    def clean(self) -> None:
        """Keep the model: lmms-eval's own would delete it, and its caller may still want it."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
