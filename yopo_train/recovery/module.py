"""The model as Lightning trains and scores it."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from yopo_train.calibration import PlanConfig
from yopo_train.errors import UserError
from yopo_train.models import family_of, load_base
from yopo_train.models.offload import is_dispatched
from yopo_train.models.quantization import Quantization
from yopo_train.plan import PruningPlan
from yopo_train.pruning import active_plan, prune, to_base_order, to_plan_order
from yopo_train.recovery.adapter import attach_lora
from yopo_train.recovery.checkpoint_identity import KEY, identity_of, refuse_other_training
from yopo_train.recovery.distillation import make_loss
from yopo_train.recovery.freezing import Part, train_all_but
from yopo_train.recovery.lora_options import LoraOptions
from yopo_train.recovery.optimizer import lr_factor, make_optimizer
from yopo_train.recovery.options import DistillationOptions, OptimizerOptions
from yopo_train.recovery.sharding import FSDP2, shard
from yopo_train.recovery.token_mean import TokenMean
from yopo_train.recovery.tuning import check_tuning
from yopo_train.recovery.zero import DeepSpeed


class YopoModule(LightningModule):
    """A multimodal LLM: base, then pruned, then finetuned.

    Making one costs nothing: `load` reads the weights, `prune_with` puts a plan on, `start_tuning` makes it trainable.

    Parameters
    ----------
    base
        Hub id or local folder of the base model, with its processor.
    revision
        Branch, tag or commit on the Hub.
    dtype
        Type that the base is loaded in; auto is the one it was saved in. A LoRA adapter stays in float32.
    quantization
        Load the language model's linear layers in 4 or 8 bits (QLoRA; needs bitsandbytes); null leaves them whole.
    tuning
        lora: an adapter on the language model. full: every weight. none: no training.
    freeze
        Parts that tuning full leaves as they are: vision, projector, language, embeddings.
    pruning
        How to prune; null leaves the model dense.
    plan
        A ready plan.safetensors; nothing is calibrated then, and pruning has to be null.
    lora
        The adapter.
    optimizer
        Which one, and its schedule.
    loss
        ce: cross-entropy on the answers' tokens. kd: the divergence there from what the model says without plan and
        adapter. ce+kd: both.
    distillation
        How that teacher is followed.
    gradient_checkpointing
        Recompute each layer in the backward pass instead of keeping its activations.
    backend
        compact skips what is pruned; reference computes and masks it, for comparisons.
    max_new_tokens
        Longest answer when questions are answered.
    save_dtype
        Type that the weights of a full finetune are stored in; null is the type they were trained in.
    device_map
        For a base larger than the device, which can then be calibrated, planned for, pruned and scored, but not trained
        or given an adapter: auto, or which part goes where (a device, cpu or disk). Needs a single process.
    max_memory
        What auto may use of each device, like {0: 20GiB, cpu: 60GiB}; the rest stays on disk.
    offload_folder
        Where weights go that cannot be read from the checkpoint's own files as they are needed.

    Raises
    ------
    UserError
        Both a plan and a pruning section, wrong values in it, a place for offloaded weights without a device map, or a
        teacher, frozen parts or quantized weights with a tuning that cannot have them.
    """

    strict_loading = False  # checkpoints hold trainable weights only; `on_load_checkpoint` compares the names

    def __init__(
        self,
        base: str,
        revision: str | None = None,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        quantization: Quantization | None = None,
        tuning: Literal["lora", "full", "none"] = "lora",
        freeze: list[Part] | None = None,
        pruning: PlanConfig | None = None,
        plan: str | None = None,
        lora: LoraOptions = LoraOptions(),
        optimizer: OptimizerOptions = OptimizerOptions(),
        loss: Literal["ce", "kd", "ce+kd"] = "ce",
        distillation: DistillationOptions = DistillationOptions(),
        gradient_checkpointing: bool = False,
        backend: Literal["compact", "reference"] = "compact",
        max_new_tokens: int = 16,
        save_dtype: Literal["float32", "bfloat16", "float16"] | None = None,
        device_map: str | dict[str, int | str] | None = None,
        max_memory: dict[int | str, int | str] | None = None,
        offload_folder: str | None = None,
    ) -> None:
        super().__init__()
        self.register_load_state_dict_post_hook(_miss_trained_only)
        if plan is not None and pruning is not None:
            raise UserError(f"model.plan is {plan}, expected null beside model.pruning: give only one of the two")
        if pruning is not None:
            pruning.check()
        if max_new_tokens < 1:
            raise UserError(f"model.max_new_tokens is {max_new_tokens}, expected a number >= 1")
        self.placement = {"device_map": device_map, "max_memory": max_memory, "offload_folder": offload_folder}
        for name, value in self.placement.items():
            if value is not None and device_map is None:
                raise UserError(f"model.{name} is {value}, expected null where model.device_map is null")
        check_tuning(tuning, quantization, freeze, lora, loss, plan is not None or pruning is not None)
        self.base, self.revision, self.base_dtype, self.quantization = base, revision, dtype, quantization
        self.tuning, self.freeze_parts = tuning, freeze or []
        self.lora_options, self.optimizer_options = lora, optimizer
        self.loss, self.distillation = loss, distillation
        self.objective, self._mean = make_loss(loss, distillation), TokenMean()
        self.pruning, self.plan_file, self.backend = pruning, plan, backend
        self.gradient_checkpointing, self.max_new_tokens = gradient_checkpointing, max_new_tokens
        self.save_dtype = save_dtype
        self.model: nn.Module | None = None
        self.processor: Any = None
        self.watchers: list[Callable[[Tensor, list[Tensor]], None]] = []
        """Called with loss and gradients of each optimizer step, before the weights change."""

    # -- from base to trainable -----------------------------------------------------------------------------------
    @property
    def prunes(self) -> bool:
        """Whether there is a plan, or one to be made."""
        return self.pruning is not None or self.plan_file is not None

    @property
    def has_teacher(self) -> bool:
        """Whether the loss needs what the unpruned model says."""
        return self.loss != "ce"

    @property
    def is_placed(self) -> bool:
        """Whether the base's parts go to devices of their own, which nobody else may change."""
        return self.placement["device_map"] is not None

    @property
    def has_cache(self) -> bool:
        """Whether the model, as it is now, can keep a KV cache; the reference backend cannot."""
        return self.backend == "compact" or active_plan(self.model) is None

    def load(self, folder: str | None = None) -> None:
        """Read model and processor, unless they are loaded.

        Parameters
        ----------
        folder
            Read this folder (a finetuned model) in place of the base.
        """
        if self.model is None or folder is not None:
            source = (self.base, self.revision) if folder is None else (folder, None)
            options = {"dtype": self.base_dtype, "quantization": self.quantization if folder is None else None}
            model, self.processor = load_base(*source, **options, **self.placement)
            if is_dispatched(model):
                self.__dict__["model"] = model  # not a submodule: Lightning would move it
            else:
                self.model = model

    def given_plan(self) -> PruningPlan:
        """The plan of the parameter ``plan``, checked against the backend and the loaded model.

        Raises
        ------
        UserError
            No plan there, or one for another backend or model.
        """
        plan = PruningPlan.load(self.plan_file)
        if self.backend == "compact" and plan.semantics != "compact":
            raise UserError(
                f"{self.plan_file}: the plan's semantics are {plan.semantics}, which only model.backend reference "
                f"computes, found model.backend {self.backend}"
            )
        plan.check(family_of(self.model).dims(self.model.config), self.base)
        return plan

    def prune_with(self, plan: PruningPlan) -> None:
        """Put the plan on the model, unless it is there already."""
        active = active_plan(self.model)
        if active is None or active.id != plan.id:
            prune(self.model, plan, self.backend)

    def start_tuning(self) -> None:
        """Add the adapter, or unfreeze everything."""
        if self.tuning == "lora":
            self.model = attach_lora(self.model, self.lora_options)
        else:
            train_all_but(self.model, self.freeze_parts)
        if self.gradient_checkpointing:
            # transformers 5.2x renamed it
            base = getattr(self.model, "get_base_model", lambda: self.model)()
            enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
            enable()

    def trainable(self) -> dict[str, nn.Parameter]:
        """The weights that training changes, by name."""
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}

    def configure_model(self) -> None:
        """Shard the model, where the trainer's strategy is `FSDP2`."""
        if isinstance(self.trainer.strategy, FSDP2):
            shard(self.model, self.trainer.strategy.device_mesh)

    # -- training -------------------------------------------------------------------------------------------------
    def on_fit_start(self) -> None:
        self.model.train()  # Lightning keeps modes as they are, and from_pretrained gives eval mode

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Mean loss over the answers' tokens of all processes."""
        sums = self.objective(self.model, batch)
        loss = self._mean.add(sums)
        if not loss.requires_grad:  # no image, and nothing is trained but what images go through
            loss = loss + 0 * sum(weight.sum() for weight in self.trainable().values())
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if isinstance(self.trainer.strategy, DeepSpeed):
            gradients = self.trainer.strategy.own_gradients()
        else:
            gradients = [weight.grad for weight in self.trainable().values() if weight.grad is not None]
        self._mean.settle(gradients, self.trainer.accumulate_grad_batches)
        for name, value in self._mean.means.items():
            self.log(f"train/{name}", value)
        for look in self.watchers:
            look(self._mean.means["loss"], gradients)

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimizer; linear warm-up, then cosine, over all steps of the fit."""
        options = self.optimizer_options
        optimizer = make_optimizer(self.trainable(), options)
        steps = options.schedule_steps or int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, steps, options))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # -- scoring --------------------------------------------------------------------------------------------------
    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Nothing of its own: the callback `GenerationScorer` generates answers and compares them."""

    test_step = predict_step = validation_step

    # -- checkpoints: primitives and tensors only, so that they load with weights_only -------------------------------
    def state_dict(
        self, *, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """What a checkpoint keeps: the trained weights, in the base's own order of heads and channels.

        The parameters are those of torch; a module around this one (an average of weights) sets them.
        """
        weights = self.trainable()
        if not keep_vars:
            weights = {name: weight.detach() for name, weight in weights.items()}
        found = {f"{prefix}{name}": weight for name, weight in self.in_base_order(weights).items()}
        if destination is None:
            return found
        destination.update(found)
        return destination

    def in_base_order(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Trained weights, by the names that they have here, as they stand in the base; the plan's order is left."""
        return to_base_order(self.model, weights, prefix="model.")

    def in_plan_order(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The other way round."""
        return to_plan_order(self.model, weights, prefix="model.")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what the weights belong to."""
        checkpoint[KEY] = identity_of(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another training: raises a ``UserError`` that names the first difference."""
        refuse_other_training(checkpoint, self)


def _miss_trained_only(module: YopoModule, incompatible: Any) -> None:
    """Nothing is missing of a state dict that has what `YopoModule.state_dict` gives."""
    trained = tuple(module.trainable())
    incompatible.missing_keys[:] = [name for name in incompatible.missing_keys if name.endswith(trained)]
