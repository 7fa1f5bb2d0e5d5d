"""Another version of this project beside this one: both in turn, each run a process of its own, as ratios."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["HERE", "checkout", "compare", "print_ratios", "run"]

HERE = Path(__file__).parents[2]


def run(checkout: Path, command: list[str]) -> tuple[str, float]:
    """What a Python with the packages of a checkout prints, and the seconds that it takes from start to end."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *command],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout, time.perf_counter() - start


def checkout(path: str) -> Path:
    """A folder that holds a version of the package."""
    if not (Path(path) / "pyro_pcflow" / "__init__.py").is_file():
        raise argparse.ArgumentTypeError(f"{path} holds no folder pyro_pcflow")
    return Path(path).resolve()


def compare(
    measure: Callable[[Path], Mapping[str, float]], other: Path, rounds: int
) -> tuple[list[Mapping[str, float]], list[Mapping[str, float]]]:
    """Figures of each round, of this version and of the other one."""
    for version in (HERE, other):  # compiles the kernel and the byte code
        measure(version)
    ours: list[Mapping[str, float]] = []
    theirs: list[Mapping[str, float]] = []
    for number in range(rounds):
        # The second one finds a warmer machine.
        order = [(HERE, ours), (other, theirs)]
        for version, runs in order if number % 2 == 0 else reversed(order):
            runs.append(measure(version))
    return ours, theirs


def print_ratios(
    ours: list[Mapping[str, float]],
    theirs: list[Mapping[str, float]],
    *,
    show: Callable[[str, float], str] = lambda _, seconds: f"{1e3 * seconds:.1f} ms",
) -> None:
    """A table: medians, and the median and the range of the ratios of two runs side by side."""
    print("| task | this version | the other | ratio | range |\n| --- | --- | --- | --- | --- |")
    for task in ours[0]:
        ratios = [mine[task] / yours[task] for mine, yours in zip(ours, theirs, strict=True)]
        mine, yours = (show(task, statistics.median(run[task] for run in runs)) for runs in (ours, theirs))
        print(
            f"| {task} | {mine} | {yours} | {statistics.median(ratios):.3f} | {min(ratios):.3f} to {max(ratios):.3f} |"
        )
