"""Calibration: run a stock model over a few samples and keep what the planner needs.

`CalibrationModule` is for ``trainer.validate`` (any device, DDP, progress bar); `calibrate` is the same in one call.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn

from yopo_train.calibration.channel_score import ChannelScore
from yopo_train.calibration.collect import find_samples, observing, stack_layers, weight_norms
from yopo_train.calibration.head_ratio import HeadRatio
from yopo_train.calibration.scores import Scores
from yopo_train.errors import UserError
from yopo_train.models import family_of, model_inputs, unwrap
from yopo_train.pruning import active_plan


class CalibrationModule(LightningModule):
    """Gathers `Scores` in one validation epoch; several ranks add up to the same scores as one.

    Parameters
    ----------
    model
        The stock multimodal model, unpruned.
    data_fingerprint
        Which data is read; kept in the scores.

    Raises
    ------
    UserError
        The model is pruned.
    """

    def __init__(self, model: nn.Module, data_fingerprint: str | None = None) -> None:
        super().__init__()
        if active_plan(model) is not None:
            raise UserError("calibration needs the unpruned model, found a pruned one: call unprune(model) first")
        self.model = unwrap(model)
        self.data_fingerprint = data_fingerprint
        dims = family_of(model).dims(self.model.config)
        self.head_ratio = HeadRatio(dims.layers, dims.heads)
        self.channel_score = ChannelScore(dims.layers, dims.intermediate)
        self._seen = 0
        self._scores: Scores | None = None

    @property
    def scores(self) -> Scores:
        """What the last validation epoch measured.

        Raises
        ------
        UserError
            There was no sample.
        """
        if self._scores is None:
            raise UserError("the calibration set is empty, expected at least one sample with an image")
        return self._scores

    def on_validation_epoch_start(self) -> None:
        self.head_ratio.reset()
        self.channel_score.reset()
        self._seen, self._scores = 0, None
        self._head_norms, self._channel_norms, self._column_norms = weight_norms(self.model)
        # a rank without any image still takes part in the sum
        dims = self.head_ratio.layers, self.head_ratio.heads
        self.head_ratio.update(torch.zeros(0, *dims), torch.ones(0, *dims))
        self.channel_score.update(torch.zeros_like(self._column_norms), self._column_norms)

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Add one batch: a mapping of model inputs; ``meta`` (one mapping a sample) names samples in errors."""
        inputs = model_inputs(batch)
        size = len(inputs["input_ids"])
        meta = batch.get("meta") or [{}] * size
        names = [str(entry.get("id", self._seen + row)) for row, entry in enumerate(meta)]
        self._seen += size
        samples = find_samples(self.model, inputs, names)
        if not samples:
            return
        with observing(self.model, samples) as observation:
            family_of(self.model).core(self.model)(**inputs, use_cache=False)  # the LM head is not needed
        self.head_ratio.update(stack_layers(observation.visual, 1), stack_layers(observation.other, 1))
        self.channel_score.update(stack_layers(observation.activation, 0), self._column_norms)

    def on_validation_epoch_end(self) -> None:
        rho, channels = self.head_ratio.compute(), self.channel_score.compute()
        if not len(rho) and self._seen:
            raise UserError(f"none of the {self._seen} calibration samples holds a visual token, expected images")
        if not len(rho):
            return  # `scores` tells
        config = self.model.config
        # cloned outside of inference mode: inference tensors may not be changed later
        with torch.inference_mode(False):
            tensors = [t.cpu().clone() for t in (rho, channels, self._head_norms, self._channel_norms)]
        self._scores = Scores(
            family_of(self.model).dims(config),
            *tensors,
            base_model=config.name_or_path or None,
            revision=getattr(config, "_commit_hash", None),
            data_fingerprint=self.data_fingerprint,
        )


def calibrate(model: nn.Module, batches: Iterable[Mapping[str, Any]], data_fingerprint: str | None = None) -> Scores:
    """Measure `Scores` on batches that lie on the model's device.

    Parameters
    ----------
    model
        The stock multimodal model, unpruned.
    batches
        Mappings of model inputs: ``input_ids`` and ``attention_mask`` ``(batch, tokens)``, ``pixel_values``, ...;
        padded on either side. ``labels`` and ``meta`` are ignored.
    data_fingerprint
        Which data this is; kept in the scores.

    Raises
    ------
    UserError
        A pruned model, no batch, no visual token in any sample, or a sample without text behind its image.
    """
    modes = [(part, part.training) for part in model.modules()]
    module = CalibrationModule(model, data_fingerprint).eval()
    try:
        with torch.inference_mode():
            module.on_validation_epoch_start()
            for index, batch in enumerate(batches):
                module.validation_step(batch, index)
            module.on_validation_epoch_end()
    finally:
        for part, training in modes:
            part.training = training
    return module.scores
