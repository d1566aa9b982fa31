"""What does calibration cost? A pass with its statistics, in turns with a plain forward pass over the same samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..calibration import calibrate
from ..models import family_of, unwrap
from ..pruning import unprune
from .timer import Contender, Stopwatch, Timing, interleave


@dataclass(frozen=True)
class CalibrationCost:
    """Milliseconds of both passes, from the images to the last layer; without the LM head, which no statistic reads."""

    forward: Timing
    calibration: Timing

    @property
    def ratio(self) -> float:
        """Calibration over the plain pass."""
        return self.calibration.median / self.forward.median

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"forward": self.forward.median, "calibration": self.calibration.median, "ratio": self.ratio}


def calibration_cost(
    model: nn.Module,
    inputs: dict[str, Tensor],
    repeats: int,
    warmup: int = 1,
    on_turn: Callable[[], None] = lambda: None,
) -> CalibrationCost:
    """Time both; the model is left unpruned. Parameters are those of `interleave`, which calls ``on_turn``."""
    unprune(model)
    core = family_of(model).core(unwrap(model))

    @torch.inference_mode()
    def forward(watch: Stopwatch) -> None:
        watch.start()
        core(**inputs, use_cache=False)
        watch.lap("forward")

    def calibration(watch: Stopwatch) -> None:
        watch.start()
        calibrate(model, [inputs])
        watch.lap("calibration")

    contenders = {measure.__name__: Contender(lambda: None, [measure]) for measure in (forward, calibration)}
    times = interleave(contenders, next(model.parameters()).device, repeats, warmup, on_turn)
    return CalibrationCost(times["forward"]["forward"], times["calibration"]["calibration"])
