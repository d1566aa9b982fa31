"""How fast is a plan? Prefill of the base and of the pruned model in one process, in turns.

    yopo-train bench --model llava-1.5-7b --layers 4 --dtype bfloat16 --preset paper-25

The opponent is the stock model with SDPA. Weights are random: time does not depend on them, nor on which heads and
channels stay, only on how many.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, CLIPVisionConfig, LlamaConfig, LlavaConfig

from .calibration import PlanConfig, Scores, make_plan
from .cost import prefill_flops
from .errors import UserError
from .models import family_of, unwrap
from .models.prompt import prompt_of
from .plan import ModelDims, PruningPlan
from .pruning import prune, unprune

LLAVA_TEXT = {
    "llava-1.5-7b": {},
    "llava-1.5-13b": {
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
    },
}
IMAGE_TOKEN = 32000


@dataclass
class Times:
    """Milliseconds of one model: median and 90th percentile.

    ``prefill`` is the language model up to the first token's logits, ``total`` the whole call, vision tower included.
    """

    prefill: float
    prefill_p90: float
    total: float
    total_p90: float

    @classmethod
    def of(cls, samples: list[tuple[float, float]]) -> Times:
        """From (prefill, total) pairs."""
        columns = [sorted(column) for column in zip(*samples, strict=True)]
        place = math.ceil(0.9 * len(samples)) - 1
        (prefill, total) = columns
        return cls(statistics.median(prefill), prefill[place], statistics.median(total), total[place])


@dataclass
class PrefillBench:
    """One comparison; times in milliseconds, FLOPs of the language model's prefill of one sample."""

    base: Times
    pruned: Times
    base_flops: float
    pruned_flops: float
    visual_tokens: int
    text_tokens: int
    batch: int
    repeats: int
    dtype: str
    device: str
    threads: int

    @property
    def speedup(self) -> float:
        """How many times faster the pruned prefill is."""
        return self.base.prefill / self.pruned.prefill

    @property
    def efficiency(self) -> float:
        """Measured speed-up over the one that the FLOPs promise."""
        return self.speedup * self.pruned_flops / self.base_flops

    def table(self) -> str:
        """Markdown."""
        rows = ["| | prefill ms (p90) | with vision tower ms (p90) | prefill TFLOPs |", "| --- | --- | --- | --- |"]
        for name, times, flops in (("base", self.base, self.base_flops), ("pruned", self.pruned, self.pruned_flops)):
            rows.append(
                f"| {name} | {times.prefill:.1f} ({times.prefill_p90:.1f}) | {times.total:.1f} ({times.total_p90:.1f})"
                f" | {flops / 1e12:.4f} |"
            )
        ratio = self.base_flops / self.pruned_flops
        rows.append(f"| ratio | {self.speedup:.2f}x | {self.base.total / self.pruned.total:.2f}x | {ratio:.2f}x |")
        where = f"{self.device}, {self.threads} threads, {self.dtype}, batch {self.batch}, {self.repeats} repeats"
        tokens = f"{self.visual_tokens} visual and {self.text_tokens} text tokens"
        return "\n".join([*rows, "", f"{tokens}; {where}; efficiency {self.efficiency:.2f}"])

    def as_dict(self) -> dict:
        """For JSON."""
        return {**asdict(self), "speedup": self.speedup, "efficiency": self.efficiency}


def measure_prefill(
    model: nn.Module, inputs: Mapping[str, Tensor], plan: PruningPlan, repeats: int = 10, warmup: int = 2
) -> PrefillBench:
    """Time the base model and the pruned one in turns; the model is left unpruned.

    Parameters
    ----------
    model : nn.Module
        An unpruned model in eval mode, on the device to measure.
    inputs : mapping
        Model inputs of a batch; all samples of equal length.
    plan : PruningPlan
        The plan to compare with.
    repeats, warmup : int
        Timed and untimed rounds; in a round each model runs once untimed, after the switch, and once timed.
    """
    base = unwrap(model)
    prompt = prompt_of(model, inputs)
    samples: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    try:
        for round_number in range(warmup + repeats):
            for pruned in (False, True):
                prune(model, plan) if pruned else unprune(model)
                _prefill(model, inputs)
                timed = _prefill(model, inputs)
                if round_number >= warmup:
                    samples[pruned].append(timed)
    finally:
        unprune(model)
    vocab = base.get_output_embeddings().weight.shape[0]
    parameter = next(base.parameters())
    return PrefillBench(
        base=Times.of(samples[False]),
        pruned=Times.of(samples[True]),
        base_flops=prefill_flops(PruningPlan.dense(plan.dims), prompt, vocab),
        pruned_flops=prefill_flops(plan, prompt, vocab),
        visual_tokens=prompt.visual_tokens,
        text_tokens=prompt.text_tokens,
        batch=len(inputs["input_ids"]),
        repeats=repeats,
        dtype=str(parameter.dtype).removeprefix("torch."),
        device=device_name(parameter.device),
        threads=torch.get_num_threads(),
    )


def device_name(device: torch.device) -> str:
    """What the measurement ran on, for people."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return names[0] if names else device.type


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _prefill(model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[float, float]:
    """Milliseconds of the language model and of the whole call."""
    text_model = family_of(model).text_model(unwrap(model))
    marks: list[float] = []
    handle = text_model.register_forward_pre_hook(lambda *_: marks.append(_now()))
    try:
        with torch.inference_mode():
            start = _now()
            model(**inputs, use_cache=True, logits_to_keep=1)
            end = _now()
    finally:
        handle.remove()
    return 1000 * (end - marks[0]), 1000 * (end - start)  # the LM head belongs to prefill


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def random_model(name: str, layers: int | None = None, visual_tokens: int = 576, dtype: str = "float32") -> nn.Module:
    """A LLaVA with random weights and the real dimensions of a named model or of a folder's config.

    Parameters
    ----------
    name : str
        ``llava-1.5-7b``, ``llava-1.5-13b``, a local folder or a Hub id.
    layers : int, optional
        Keep only so many layers of the language model.
    visual_tokens : int
        Tokens of one image, a square number: the image is made larger or smaller to fit.
    """
    side = math.isqrt(visual_tokens)
    if side * side != visual_tokens or not visual_tokens:
        raise UserError(f"--visual-tokens is {visual_tokens}, expected a square number (576 is a grid of 24 x 24)")
    config = _config(name)
    family_of(config)
    config.vision_config.image_size = side * config.vision_config.patch_size
    if layers is not None:
        if not 1 <= layers <= config.text_config.num_hidden_layers:
            raise UserError(f"--layers is {layers}, expected 1 to {config.text_config.num_hidden_layers}")
        config.text_config.num_hidden_layers = layers
    if dtype not in ("float32", "bfloat16", "float16"):
        raise UserError(f"--dtype is {dtype!r}, expected float32, bfloat16 or float16")
    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(
        config, dtype=getattr(torch, dtype), attn_implementation="sdpa"
    ).eval()


def _config(name: str):
    if name in LLAVA_TEXT:
        text = LlamaConfig(vocab_size=32064, max_position_embeddings=4096, **LLAVA_TEXT[name])
        vision = CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=336,
            patch_size=14,
        )
        return LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN)
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--model is {name!r}, expected one of {', '.join(LLAVA_TEXT)}, a folder or a Hub id"
        ) from error


def random_inputs(model: nn.Module, visual_tokens: int, text_tokens: int, batch: int) -> dict[str, Tensor]:
    """Text, image, text: a quarter of the text in front, as LLaVA's system prompt is."""
    parameter, config = next(model.parameters()), model.config
    image_token = family_of(model).image_token_id(config)
    before = text_tokens // 4
    ids = torch.randint(config.text_config.vocab_size, (batch, visual_tokens + text_tokens))
    ids[ids == image_token] = (image_token + 1) % config.text_config.vocab_size
    ids[:, before : before + visual_tokens] = image_token
    size = config.vision_config.image_size
    pixels = torch.randn(batch, 3, size, size, dtype=parameter.dtype)
    return {name: x.to(parameter.device) for name, x in (("input_ids", ids), ("pixel_values", pixels))}


def bench(
    model: str = "llava-1.5-7b",
    layers: int | None = None,
    visual_tokens: int = 576,
    text_tokens: int = 64,
    batch: int = 1,
    dtype: str = "float32",
    device: str = "cpu",
    preset: str | None = "paper-25",
    plan: Path | None = None,
    radius: int | None = None,
    repeats: int = 10,
    json_file: Path | None = None,
) -> PrefillBench:
    """Prefill time of the base model (SDPA) and of the pruned one, in turns, with random weights.

    Args:
        model: llava-1.5-7b, llava-1.5-13b, or a local folder or Hub id whose config gives the dimensions
        layers: keep only so many layers of the language model
        visual_tokens: tokens of the image, a square number
        text_tokens: all other tokens
        batch: samples
        dtype: float32, bfloat16 or float16
        device: cpu or cuda
        preset: paper-25 or paper-12
        plan: a plan.safetensors instead of the preset
        radius: neighbor radius of the preset
        repeats: timed rounds
        json_file: write the result here
    """
    if min(text_tokens, batch, repeats) < 1:
        raise UserError("--text_tokens, --batch and --repeats must be at least 1")
    if json_file is not None and not json_file.parent.is_dir():
        raise UserError(f"--json_file is {json_file}, but its folder does not exist")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device is {device}, but there is no GPU")
    network = random_model(model, layers, visual_tokens, dtype).to(device)
    dims = family_of(network).dims(network.config)
    inputs = random_inputs(network, visual_tokens, text_tokens, batch)
    side = math.isqrt(visual_tokens)
    chosen = PruningPlan.load(plan) if plan is not None else unscored_plan(dims, preset, radius, (1, side, side))
    result = measure_prefill(network, inputs, chosen, repeats)
    print(result.table())
    if json_file is not None:
        json_file.write_text(json.dumps(result.as_dict(), indent=2) + "\n")
    return result


def unscored_plan(dims: ModelDims, preset: str | None, radius: int | None, grid: tuple[int, int, int]) -> PruningPlan:
    """A preset's plan with random heads and channels: of the right size for timing, of no use for answers."""
    heads, channels = torch.zeros(dims.layers, dims.heads), torch.zeros(dims.layers, dims.intermediate)
    blank = Scores(dims, heads[None], channels, heads, channels)
    return make_plan(blank, PlanConfig(preset=preset, radius=radius, choice="random"), [grid])
