"""Alternating runs of contenders, for an equal load of the machine, each at the best of several learning rates."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar


class Run(Protocol):
    """What a race asks of a training run."""

    @property
    def contender(self) -> str:
        """The name of the model."""

    @property
    def lr(self) -> float:
        """The learning rate."""

    @property
    def validation(self) -> float:
        """The score that the rate is chosen by, higher is better."""


R = TypeVar("R", bound=Run)


def race(
    train: Callable[[str, float, int], R],
    contenders: Iterable[str],
    rates: Sequence[float],
    seeds: int,
    report: Callable[[R], None],
) -> list[R]:
    """Try every rate under the first seed, then run the other seeds at the best rate of each contender.

    Args:
        train: from a contender, a learning rate and a seed to a run.
        contenders: their names.
        rates: learning rates to choose from.
        seeds: runs of each contender that are returned.
        report: called with every run as it ends.
    """
    contenders = list(contenders)

    def run(contender: str, lr: float, seed: int) -> R:
        done = train(contender, lr, seed)
        report(done)
        return done

    trials = [run(contender, lr, 0) for lr in rates for contender in contenders]
    best = {
        contender: max((trial for trial in trials if trial.contender == contender), key=lambda trial: trial.validation)
        for contender in contenders
    }
    others = [run(contender, best[contender].lr, seed) for seed in range(1, seeds) for contender in contenders]
    return [*best.values(), *others]


def reporter(describe: Callable[[Any], str], log: Path | None) -> Callable[[Any], None]:
    """Tell of runs on standard error, and append them to a file, a JSON object per line.

    Args:
        describe: from a run, a dataclass, to a line of text.
        log: the file, or None.
    """

    def report(run: Any) -> None:
        print(describe(run), file=sys.stderr, flush=True)
        if log is not None:
            with log.open("a") as file:
                file.write(json.dumps(asdict(run)) + "\n")

    return report
