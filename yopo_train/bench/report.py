"""What bench prints: two Markdown tables a comparison, and lines that say what follows from them."""

from __future__ import annotations

from ..summary import NOTHING, Table
from .results import LAPS, Comparison, Row, growth

HEADERS = {
    "vision": "vision tower ms",
    "prefill": "LLM prefill ms",
    "first_token": "first token ms",
    "decode": "decode ms/token",
    "train": "LoRA step ms",
}
SIZES = {
    "prefill TFLOPs": lambda row: _tera(row.flops),
    "counted": lambda row: _tera(row.counted),
    "all pairs": lambda row: _tera(row.computed),
    "peak MiB": lambda row: _mebi(row.peak_bytes),
    "weights MiB": lambda row: _mebi(row.weight_bytes),
    "KV cache MiB": lambda row: _mebi(row.cache_bytes),
    "by formula": lambda row: _mebi(row.cache_formula),
    "LoRA step TFLOPs": lambda row: _tera(row.train_flops),
    "LoRA step peak MiB": lambda row: _mebi(row.train_peak_bytes),
}


def report(comparison: Comparison) -> str:
    """Markdown: time, then FLOPs and memory, then what follows."""
    tables = (_times(comparison).markdown(), _sizes(comparison).markdown())
    return "\n".join([_headline(comparison), "", *tables, *_conclusions(comparison), ""])


def growth_report(comparisons: list[Comparison]) -> str:
    """One line on a sweep over visual tokens."""
    tokens = ", ".join(str(comparison.visual_tokens) for comparison in comparisons)
    found = ", ".join(f"{name} {exponent:.2f}" for name, exponent in growth(comparisons).items())
    return f"growth exponent of the LLM prefill over {tokens} visual tokens: {found}"


def _headline(comparison: Comparison) -> str:
    c = comparison
    return (
        f"{c.visual_tokens} visual and {c.text_tokens} text tokens, batch {c.batch}, {c.dtype}, {c.device}, "
        f"{c.threads} threads; median (p90) of {c.repeats}; {c.plan}"
    )


def _times(comparison: Comparison) -> Table:
    rows, base = comparison.rows, comparison.rows["base"]
    laps = [lap for lap in LAPS if lap in base.times]
    lines = [[name, *(_time(row, lap) for lap in laps)] for name, row in rows.items()]
    lines.append(["base / pruned", *(f"{comparison.speedup(lap):.2f}x" for lap in laps)])
    return Table(["", *(HEADERS[lap] for lap in laps)], lines)


def _sizes(comparison: Comparison) -> Table:
    rows = comparison.rows
    lines = [[name, *(cell(row) for cell in SIZES.values())] for name, row in rows.items()]
    shown = [0] + [i for i in range(1, 1 + len(SIZES)) if any(line[i] != NOTHING for line in lines)]
    headers = ["", *SIZES]
    return Table([headers[i] for i in shown], [[line[i] for i in shown] for line in lines])


def _conclusions(comparison: Comparison) -> list[str]:
    c = comparison
    lines = ["- LLM prefill: " + _efficiency(c.speedup(), c.flops_ratio, c.efficiency)]
    if c.train_efficiency is not None:
        found = _efficiency(c.speedup("train"), c.train_flops_ratio, c.train_efficiency)
        lines.append(f"- LoRA step: {found}, against peft on the stock model with SDPA")
    if "reference" in c.rows:
        lines.append(
            "- reference is the authors' way, masks in the stock model: it computes what it masks, so it runs at "
            f"{c.speedup(row='reference'):.2f}x of the base's speed"
        )
    if c.calibration is not None:
        forward, calibration = c.calibration.forward.median, c.calibration.calibration.median
        lines.append(
            f"- calibration: {calibration:.1f} ms, {c.calibration.ratio:.2f}x a plain forward pass from the images to "
            f"the last layer ({forward:.1f} ms)"
        )
    lines.append(f"- KV cache of visual tokens: {100 * c.visual_cache_share:.1f} % of the base's")
    if whole := c.whole_model:
        lines.append(
            f"- extrapolated from this slice, not measured: LLM prefill of all {whole.layers} layers "
            f"{whole.base:.0f} ms, pruned {whole.pruned:.0f} ms; "
            + _efficiency(whole.speedup, whole.flops_ratio, whole.efficiency)
        )
    return lines


def _efficiency(speedup: float, flops_ratio: float, efficiency: float) -> str:
    return f"speed-up {speedup:.2f}x, FLOPs say {flops_ratio:.2f}x: efficiency {efficiency:.2f}"


def _time(row: Row, lap: str) -> str:
    timing = row.times.get(lap)
    return NOTHING if timing is None else f"{timing.median:.1f} ({timing.p90:.1f})"


def _tera(flops: float | None) -> str:
    return NOTHING if flops is None else _digits(flops / 1e12)


def _mebi(size: int | None) -> str:
    return NOTHING if size is None else _digits(size / 2**20)


def _digits(value: float) -> str:
    """Four digits, and all of them before the point."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"
