"""How to prune, as a configuration file says it: the section ``model.pruning``."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

from yopo_train.calibration.drafts import Measure
from yopo_train.errors import UserError

PresetName = Literal[
    "paper-25", "paper-12", "paper-qwen2-vl-7b", "paper-internvl2-4b", "paper-internvl2-8b", "paper-internvl2-26b"
]
Method = Literal["uniform", "auto"]
Choice = Literal["score", "vote", "random", "magnitude", "prefix"]
Mechanism = Literal["heads", "channels", "neighbor", "depth"]

THRESHOLD = 0.077
"""Of the head ratio: half of the heads of LLaVA-1.5-13B in the authors' mask scripts."""


class Preset(NamedTuple):
    """A setting of the paper: the share of the visual FLOPs (its tables), and which heads stay: a share of each layer's
    (the authors' masks: 20 and 10 of 40) or those whose head ratio is above a threshold (their mask scripts).
    """

    budget: float
    heads: float | None = None
    threshold: float | None = None


PRESETS: dict[str, Preset] = {
    "paper-25": Preset(0.25, heads=0.5),
    "paper-12": Preset(0.12, heads=0.25),
    "paper-qwen2-vl-7b": Preset(0.69, threshold=0.07),
    "paper-internvl2-4b": Preset(0.72, threshold=0.08),
    "paper-internvl2-8b": Preset(0.75, threshold=0.11),
    "paper-internvl2-26b": Preset(0.50, threshold=0.052),
}


@dataclass
class PlanConfig:
    """How to prune.

    Parameters
    ----------
    preset
        A setting of the paper by name. paper-25 keeps 25 % of the visual FLOPs and half of the heads, paper-12 12 % and
        a quarter; the ones of other models keep what their name's model keeps there, heads by vote. Channels use the
        rest of the budget. With method auto only the budget counts.
    budget
        Share of the base model's cost to keep, in (0, 1]; give either a preset or a budget.
    measure
        What the budget is a share of: visual_flops (the paper's, the visual tokens alone), prefill_flops (the whole
        prompt) or kv_bytes (the cache of the whole prompt).
    method
        uniform: the same share of heads and channels in every visual layer, the best by choice. auto: depth, radius,
        heads and channels of each layer are searched for by what they change in the model's answers.
    depth
        Visual depth, 1 to the number of layers. null: auto searches for it; uniform takes half of the layers, more
        where those would not use the budget up, and where they exceed it at any ratio, the most layers with which a
        ratio of one half fits.
    radius
        Neighbor radius; the paper's window is 2 * radius + 1. null: auto searches for it, uniform takes 3, a window of
        7 x 7.
    mechanisms
        What may be pruned: heads, channels, neighbor, depth. The ones left out stay as in the base model and the others
        take the budget.
    protected_layers
        The first layers that keep all heads, as in the authors' code; never more than a quarter of the visual layers.
        auto measures instead.
    choice
        Which heads and channels stay. score: those with the highest mean head ratio and channel score. vote: the heads
        whose ratio is above a threshold in enough samples, as in the authors' mask scripts; channels by score. The
        others are controls: random, magnitude (the norm of their weights), prefix (the first ones). auto asks the
        answers which heads are missed, and takes channels by score; with a control it takes both by that.
    threshold
        Of the vote; null is the preset's, or 0.077.
    vote_share
        A head stays if its ratio is above the threshold in more than this share of the samples (the authors: more than
        40 of 100).
    head_mask
        File of the heads that stay, in place of a choice: a .npy or .pth as the authors' scripts write it.
    evaluations
        Most plans that auto tries; two at least.
    seed
        Of the random choice.
    """

    preset: PresetName | None = None
    budget: float | None = None
    measure: Measure = "visual_flops"
    method: Method = "uniform"
    depth: int | None = None
    radius: int | None = None
    mechanisms: list[Mechanism] = field(default_factory=lambda: list(get_args(Mechanism)))
    protected_layers: int = 2
    choice: Choice = "score"
    threshold: float | None = None
    vote_share: float = 0.4
    head_mask: str | None = None
    evaluations: int = 250
    seed: int = 0

    def check(self) -> None:
        """Refuse wrong values before any work is done.

        Not in ``__post_init__``: inside an optional section jsonargparse would bury the message.

        Raises
        ------
        UserError
            Names the field, what was found and what was expected.
        """
        self._check_budget()
        if not isinstance(self.mechanisms, list) or not self.mechanisms:
            raise wrong("mechanisms", self.mechanisms, "a list of at least one (model.pruning: null prunes nothing)")
        names = {"mechanisms": Mechanism, "choice": Choice, "measure": Measure, "method": Method}
        for name, allowed in names.items():
            value = getattr(self, name)
            for item in value if isinstance(value, list) else [value]:
                if item not in get_args(allowed):
                    raise wrong(name, item, f"one of {', '.join(get_args(allowed))}")
        self._check_numbers()
        self._check_choice()

    @property
    def share(self) -> float:
        """Share of the cost to keep."""
        return self.budget if self.preset is None else PRESETS[self.preset].budget

    @property
    def votes(self) -> bool:
        """Whether heads stay by vote."""
        named = self.preset is not None and PRESETS[self.preset].threshold is not None and self.choice == "score"
        return self.choice == "vote" or (named and self.method == "uniform")

    @property
    def vote_threshold(self) -> float:
        """Head ratio above which a sample votes for a head."""
        named = PRESETS[self.preset].threshold if self.preset is not None else None
        return next(value for value in (self.threshold, named, THRESHOLD) if value is not None)

    def _check_budget(self) -> None:
        if self.preset is not None and self.preset not in PRESETS:
            raise wrong("preset", self.preset, f"one of {', '.join(PRESETS)}")
        if self.preset is not None and self.budget is not None:
            raise wrong("budget", self.budget, f"null beside model.pruning.preset ({self.preset}): give only one")
        if self.preset is None and self.budget is None:
            raise wrong("budget", None, "a share in (0, 1], or a preset in model.pruning.preset")
        if self.preset is None and not (isinstance(self.budget, int | float) and 0 < self.budget <= 1):
            raise wrong("budget", self.budget, "a share of the cost in (0, 1]")

    def _check_numbers(self) -> None:
        least = {"depth": ("depth", 1), "radius": ("neighbor", 0), "protected_layers": ("", 0), "evaluations": ("", 1)}
        for name, (mechanism, smallest) in least.items():
            value = getattr(self, name)
            if value is None and mechanism:
                continue
            if type(value) is not int or value < smallest:
                raise wrong(name, value, f"an integer >= {smallest}")
            if mechanism and mechanism not in self.mechanisms:
                raise wrong(name, value, f"null, as model.pruning.mechanisms leaves {mechanism} out")
        if self.threshold is not None and not self.threshold >= 0:
            raise wrong("threshold", self.threshold, "a head ratio >= 0")
        if not 0 <= self.vote_share < 1:
            raise wrong("vote_share", self.vote_share, "a share in [0, 1)")

    def _check_choice(self) -> None:
        if self.method == "auto" and self.choice == "vote":
            raise wrong("choice", self.choice, "another with model.pruning.method: auto, which chooses by the answers")
        if self.threshold is not None and not self.votes:
            raise wrong("threshold", self.threshold, "null unless heads stay by model.pruning.choice: vote")
        if self.head_mask is not None and (self.method == "auto" or self.choice != "score"):
            raise wrong("head_mask", self.head_mask, "null unless method is uniform and choice is score")
        if self.head_mask is not None and "heads" not in self.mechanisms:
            raise wrong("head_mask", self.head_mask, "null, as model.pruning.mechanisms leaves heads out")


def wrong(field_name: str, found: object, expected: str) -> UserError:
    """The error for a value of the section ``model.pruning``."""
    return UserError(f"model.pruning.{field_name} is {'null' if found is None else found}, expected {expected}")
