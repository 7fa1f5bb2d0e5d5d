"""Alternating runs of contenders, for an equal load of the machine, each at the best of several settings."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar


class Run(Protocol):
    """What a race asks of a training run."""

    @property
    def validation(self) -> float:
        """The score that the setting is chosen by, higher is better."""


R = TypeVar("R", bound=Run)
S = TypeVar("S")


def race(
    train: Callable[[str, S, int], R],
    settings: Mapping[str, Sequence[S]],
    seeds: int,
    report: Callable[[R], None],
) -> list[R]:
    """Try every setting under the first seed, then run the other seeds at the best setting of each contender.

    Args:
        train: from a contender, a setting and a seed to a run.
        settings: what each contender chooses from, such as learning rates.
        seeds: runs of each contender that are returned.
        report: called with every run as it ends.
    """
    tried: dict[str, list[tuple[S, R]]] = {contender: [] for contender in settings}

    def run(contender: str, setting: S, seed: int) -> R:
        done = train(contender, setting, seed)
        report(done)
        return done

    for place in range(max(map(len, settings.values()))):
        for contender, own in settings.items():
            if place < len(own):
                tried[contender].append((own[place], run(contender, own[place], 0)))
    best = {contender: max(own, key=lambda trial: trial[1].validation) for contender, own in tried.items()}
    others = [run(contender, best[contender][0], seed) for seed in range(1, seeds) for contender in settings]
    return [*(first for _, first in best.values()), *others]


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
