"""The top and the bottom of the page: the few numbers that matter, and where everything comes from."""

from typing import Any

from yopo_train.report.facts import plan_facts
from yopo_train.report.files import Inputs
from yopo_train.summary import STAGES


def cards(inputs: Inputs) -> list[tuple[str, str]]:
    """Value and what it is; only what is known."""
    found, plan, costs = [], inputs.plan, inputs.results.get("cost", {})
    if plan is not None:
        found.append((f"{plan.depth} of {plan.dims.layers}", "layers process visual tokens"))
    if "pruned" in costs and costs["base"]["visual_flops"]:
        share = costs["pruned"]["visual_flops"] / costs["base"]["visual_flops"]
        found.append((f"{100 * share:.1f} %", "of the visual FLOPs stay"))
    if judged := _judged(inputs):
        found.append((f"{judged['kl']:.2g}", "KL to the base model, nats per answer token"))
        found.append((f"{100 * judged['agreement']:.1f} %", "of the answer tokens stay the same"))
    scores = inputs.results.get("test", {})
    found += [(f"{100 * scores[stage]['accuracy']:.1f} %", f"accuracy, {stage}") for stage in STAGES if stage in scores]
    return found


def provenance(inputs: Inputs) -> list[tuple[str, str]]:
    """Name and value: plan, scores, data, command, machine."""
    scores = inputs.scores
    facts: list[tuple[str, Any]] = list(plan_facts(inputs.plan)) if inputs.plan is not None else []
    facts += [
        ("scores", f"{scores.id}, {scores.n_samples} samples"),
        ("scores of", scores.base_model),
        ("calibration data", scores.data_fingerprint),
    ]
    environment = inputs.results.get("environment", {})
    facts += [(name, environment.get(name)) for name in ("command", "hardware", "versions")]
    return [(name, str(value)) for name, value in facts if value]


def _judged(inputs: Inputs) -> dict[str, Any] | None:
    """What the search found out about the run's plan."""
    here = inputs.plan.id if inputs.plan is not None else None
    return next((entry for entry in reversed(inputs.search.get("trace", [])) if entry["plan"] == here), None)
