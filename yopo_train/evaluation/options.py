"""The section ``evaluation`` of the configuration: which benchmarks, and when."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError
from .benchmarks import BENCHMARKS

StageName = Literal["base", "pruned", "recovered", "trained"]


@dataclass
class EvaluationOptions:
    """VQA benchmarks: which are scored, and when.

    Parameters
    ----------
    benchmarks
        Names of gqa, vqav2, scienceqa, textvqa, pope, mme, mmbench, or all.
    sources
        Where they lie: a folder with a folder a benchmark, or a path or Hub id for each name. Benchmarks that are not
        named here come from the Hub.
    splits
        Name to split, where it is not the benchmark's usual one.
    protocol
        Whose prompts, answer lengths and scores: llava (the tables of LLaVA and YOPO) or lmms_eval.
    limit
        Score at most this many items a benchmark, drawn by the run's seed; pairs and groups stay whole.
    batch_size
        Prompts at once, on each device.
    max_new_tokens
        Longest answer; the protocol's unless given.
    num_workers
        Processes that read and tokenise images; 0 does it in a thread beside the model.
    stages
        Models that fit scores.
    every_n_steps
        Score the model also while it is trained, every so many optimizer steps and after the last.
    train_benchmarks
        What is scored then; the same benchmarks unless given.
    train_limit
        How many items a benchmark then; limit unless given.
    """

    benchmarks: list[str] | str = field(default_factory=list)
    sources: dict[str, str] | str | None = None
    splits: dict[str, str] = field(default_factory=dict)
    protocol: Literal["llava", "lmms_eval"] = "llava"
    limit: int | None = None
    batch_size: int = 16
    max_new_tokens: int | None = None
    num_workers: int = 0
    stages: list[StageName] = field(default_factory=lambda: ["base", "pruned", "recovered", "trained"])
    every_n_steps: int | None = None
    train_benchmarks: list[str] | str | None = None
    train_limit: int | None = None

    @property
    def names(self) -> list[str]:
        """The benchmarks, in the order of `BENCHMARKS`."""
        return _known(self.benchmarks, "benchmarks")

    @property
    def names_in_training(self) -> list[str]:
        """What is scored while the model is trained; empty where nothing is."""
        if self.every_n_steps is None:
            return []
        return self.names if self.train_benchmarks is None else _known(self.train_benchmarks, "train_benchmarks")

    def check(self) -> None:
        """Refuse what cannot be.

        Raises
        ------
        UserError
            An unknown benchmark, a source or split of one, or a number out of range.
        """
        named = {*self.names, *self.names_in_training}
        for key in ("sources", "splits"):
            value = getattr(self, key)
            for name in value if isinstance(value, dict) else ():
                if name not in BENCHMARKS:
                    raise UserError(f"evaluation.{key} names {name!r}, expected names of: {', '.join(BENCHMARKS)}")
        for key in ("limit", "batch_size", "max_new_tokens", "every_n_steps", "train_limit"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise UserError(f"evaluation.{key} is {value}, expected at least 1")
        if self.num_workers < 0:
            raise UserError(f"evaluation.num_workers is {self.num_workers}, expected 0 or more")
        if self.every_n_steps is not None and not named:
            raise UserError(f"evaluation.every_n_steps is {self.every_n_steps}, but evaluation.benchmarks names none")

    def source(self, name: str) -> str | None:
        """Where a benchmark lies; None for the Hub."""
        if isinstance(self.sources, str):
            return str(Path(self.sources) / name)
        return (self.sources or {}).get(name)

    def items(self, name: str, seed: int, limit: int | None = None) -> list[Any]:
        """The items of a benchmark, read and checked.

        Parameters
        ----------
        limit
            In place of the section's.
        """
        limit = self.limit if limit is None else limit
        return BENCHMARKS[name].items(self.source(name), self.protocol, self.splits.get(name), limit, seed)

    def asked(self, name: str, seed: int) -> dict[str, Any]:
        """What a score depends on beside the model: where it differs, a benchmark is scored again."""
        return {
            "protocol": self.protocol,
            "source": self.source(name),
            "split": self.splits.get(name),
            "limit": self.limit,
            "seed": seed if self.limit is not None else None,
            "max_new_tokens": self.max_new_tokens,
        }


def _known(names: list[str] | str, key: str) -> list[str]:
    wanted = list(BENCHMARKS) if names == "all" else [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in BENCHMARKS:
            raise UserError(f"evaluation.{key} names {name!r}, expected all, or names of: {', '.join(BENCHMARKS)}")
    return [name for name in BENCHMARKS if name in wanted]
