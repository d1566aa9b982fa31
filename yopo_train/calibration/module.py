"""Calibration: run a stock model over a few samples and keep what the planner needs.

`CalibrationModule` is for ``trainer.validate`` (any device, DDP, progress bar); `calibrate` is the same in one call.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn

from yopo_train.calibration.channel_score import ChannelScore
from yopo_train.calibration.collect import Observation, observing, stack_layers
from yopo_train.calibration.head_ratio import HeadRatio
from yopo_train.calibration.neighbor_mass import DISTANCES, NeighborMass
from yopo_train.calibration.samples import find_samples
from yopo_train.calibration.scores import Scores
from yopo_train.calibration.sequential import PausedPass, pause_before_layers, run_layers
from yopo_train.calibration.weight_norms import WeightNorms
from yopo_train.errors import UserError
from yopo_train.models import family_of, model_inputs, unwrap
from yopo_train.models.offload import is_dispatched, is_offloaded, to_entry_device
from yopo_train.models.prompt import real_tokens
from yopo_train.pruning import active_plan


class CalibrationModule(LightningModule):
    """Gathers `Scores` in one validation epoch; several ranks add up to the same scores as one.

    A model that accelerate has spread over devices stays where it is. If weights of its layers are offloaded, the
    batches are kept and pass layer by layer at the end of the epoch, so that each layer is loaded once.

    Parameters
    ----------
    model
        The stock multimodal model, unpruned.
    data_fingerprint
        Which data is read; kept in the scores, as are the next two.
    seed
        What the samples were drawn by.
    batch_size
        Samples read together.

    Raises
    ------
    UserError
        The model is pruned.
    """

    def __init__(
        self,
        model: nn.Module,
        data_fingerprint: str | None = None,
        seed: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if active_plan(model) is not None:
            raise UserError("calibration needs the unpruned model, found a pruned one: call unprune(model) first")
        model = unwrap(model)
        if is_dispatched(model):
            self.__dict__["model"] = model  # not a submodule: Lightning would move it
        else:
            self.model = model
        self.about_data = {"data_fingerprint": data_fingerprint, "seed": seed, "batch_size": batch_size}
        self.dims = family_of(model).dims(model.config)
        self.head_ratio = HeadRatio(self.dims.layers, self.dims.heads)
        self.channel_score = ChannelScore(self.dims.layers, self.dims.intermediate)
        self.neighbor_mass = NeighborMass(self.dims.layers)
        self._seen = 0
        self._norms: WeightNorms | None = None
        self._waiting: list[tuple[PausedPass, list[str]]] = []
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
        layers, heads, channels = self.dims.layers, self.dims.heads, self.dims.intermediate
        self.model.eval()
        self._seen, self._scores, self._waiting = 0, None, []
        self._sequential = is_offloaded(family_of(self.model).text_model(self.model).layers)
        self._norms = None if self._sequential else WeightNorms.of_model(self.model)
        for metric in (self.head_ratio, self.channel_score, self.neighbor_mass):
            metric.reset()
        # a rank without any image still takes part in the sum
        self.head_ratio.update(torch.zeros(0, layers, heads), torch.ones(0, layers, heads))
        self.channel_score.update(torch.zeros(layers, channels), torch.zeros(layers, channels))
        self.neighbor_mass.update(torch.zeros(layers, DISTANCES), 0)

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Add one batch: a mapping of model inputs; ``meta`` (one mapping a sample) names samples in errors."""
        inputs = to_entry_device(self.model, model_inputs(batch))
        size = len(inputs["input_ids"])
        meta = batch.get("meta") or [{}] * size
        names = [str(entry.get("id", self._seen + row)) for row, entry in enumerate(meta)]
        self._seen += size
        observation = Observation(find_samples(self.model, inputs, names), real_tokens(inputs))
        if not observation.samples:
            return
        if self._sequential:
            self._waiting.append((pause_before_layers(self.model, inputs, observation), names))
            return
        with observing(self.model, observation):
            family_of(self.model).core(self.model)(**inputs, use_cache=False)  # the LM head is not needed
        self._add(observation, names)

    def on_validation_epoch_end(self) -> None:
        if self._waiting:
            self._norms = run_layers(self.model, [paused for paused, _ in self._waiting])
            for paused, names in self._waiting:
                self._add(paused.observation, names)
            self._waiting = []
        elif self._norms is None:
            self._norms = WeightNorms.of_model(self.model)
        rho, channels = self.head_ratio.compute(), self.channel_score.compute()
        near = self.neighbor_mass.compute()
        if not len(rho) and self._seen:
            raise UserError(f"none of the {self._seen} calibration samples holds a visual token, expected images")
        if not len(rho):
            return  # `scores` tells
        # cloned outside of inference mode: inference tensors may not be changed later
        with torch.inference_mode(False):
            tensors = [t.cpu().clone() for t in (rho, channels, near, self._norms.heads, self._norms.channels)]
        config = self.model.config
        self._scores = Scores(
            self.dims,
            *tensors,
            base_model=config.name_or_path or None,
            revision=getattr(config, "_commit_hash", None),
            **self.about_data,
        )

    def _add(self, seen: Observation, names: list[str]) -> None:
        """Add what a pass through all layers has shown."""
        seen.check(names)
        self.head_ratio.update(stack_layers(seen.visual, 1), stack_layers(seen.other, 1))
        self.channel_score.update(stack_layers(seen.activation), self._norms.columns)
        self.neighbor_mass.update(stack_layers(seen.near), max(sample.longest for sample in seen.samples))


def calibrate(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    data_fingerprint: str | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
) -> Scores:
    """Measure `Scores` on batches that lie on the model's device.

    Parameters
    ----------
    model
        The stock multimodal model, unpruned; loaded with accelerate's ``device_map``, it may be larger than the device.
    batches
        Mappings of model inputs: ``input_ids`` and ``attention_mask`` ``(batch, tokens)``, ``pixel_values``, ...;
        padded on either side. ``labels`` and ``meta`` are ignored.
    data_fingerprint, seed, batch_size
        Which data this is, what its samples were drawn by and how many are read together; kept in the scores.

    Raises
    ------
    UserError
        A pruned model, no batch, no visual token in any sample, a sample without text behind its image, or activations
        that are not finite.
    """
    modes = [(part, part.training) for part in model.modules()]
    module = CalibrationModule(model, data_fingerprint, seed, batch_size).eval()
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
