"""How fast flows of one size are, by several libraries, in one process and in turn.

    python -m benchmarks.speed --rounds 3               # the tables of docs/benchmarks.md
    python -m benchmarks.speed --figure growth.png      # how time and memory grow, too
    python -m benchmarks.speed --rounds 2 --cases 1     # a smoke run

A training step is a loss and its gradients, without the optimizer, which is the same for all. Times are medians over
rounds in which all contenders take turns; ratios are to Pyro's own couplings. The roofline is the matrix product of
torch, measured in the same rounds; a pass counts the products that all points need, even those that a kernel saves, and
a training step three times as many. Peak memory is that of a process of its own for each contender, above what it has
before its first step.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from torch import Tensor

from benchmarks.rivals.libraries import CONTENDERS, Case, Contender

MAIN = Case()
CASES = [
    MAIN,
    replace(MAIN, kept=2),
    replace(MAIN, hidden=64),
    replace(MAIN, hidden=256),
    replace(MAIN, couplings=32),
    replace(MAIN, couplings=64),
    replace(MAIN, points=65536, clouds=1),
]
TASKS = ("log_prob", "sample", "train")
LEAST_MEMORY = 1.0  # megabytes: what is below is lost among pages that a process takes for other reasons
# What grows in the figure: an attribute of a case, its name, and its values.
GROWTH = [
    ("points", "points of one cloud", [replace(MAIN, clouds=1, points=4**k) for k in range(4, 9)]),
    ("couplings", "couplings, 4 clouds of 2048 points", [replace(MAIN, clouds=4, couplings=2**k) for k in range(2, 7)]),
    ("clouds", "clouds of 2048 points", [replace(MAIN, clouds=4**k) for k in range(4)]),
]
INKS = {
    "pyro": "#c2607c",
    "zuko": "#b8943a",
    "FrEIA": "#9a6fb0",
    "ours, plain": "#8fb0cf",
    "ours, tiled": "#4f9a7e",
    "ours, fused": "#1f4e79",
}


def tasks(contender: Contender, case: Case) -> dict[str, Callable[[], object]]:
    """What is timed."""
    torch.manual_seed(0)
    points, context = torch.randn(case.clouds, case.points, 3), torch.randn(case.clouds, case.context)
    parameters = [parameter for parameter in contender.module.parameters() if parameter.requires_grad]

    def score() -> Tensor:
        # Pyro's couplings remember a tensor that they saw before.
        return contender.log_prob(points.clone(), context)

    def train() -> Sequence[Tensor]:
        return torch.autograd.grad(-score().mean(), parameters)

    return {
        "log_prob": torch.no_grad()(score),
        "sample": torch.no_grad()(lambda: contender.sample(context, case.points)),
        "train": train,
    }


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def roofline(size: int = 2048) -> Callable[[], object]:
    """A matrix product of `2 * size ** 3` operations."""
    a, b, c = (torch.randn(size, size) for _ in range(3))
    return lambda: torch.mm(a, b, out=c)


def measure(case: Case, names: Sequence[str], rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds of every task of every contender, and of the roofline's product."""
    work = {name: tasks(CONTENDERS[name](case), case) for name in names}
    peak = roofline()
    times: dict[str, dict[str, list[float]]] = {name: {task: [] for task in TASKS} for name in [*names, "roofline"]}
    for number in range(rounds + 1):
        for task in TASKS:
            times["roofline"][task].append(seconds(peak))
            for name in names:
                times[name][task].append(seconds(work[name][task]))
        if number == 0:  # the first round compiles and warms up
            times = {name: {task: [] for task in TASKS} for name in times}
    return {name: {task: statistics.median(runs) for task, runs in own.items()} for name, own in times.items()}


def peak_memory(name: str, case: Case, wanted: Sequence[str] = ("log_prob", "train")) -> dict[str, float]:
    """Peak megabytes of tasks, measured in processes of their own."""
    result = {}
    for task in wanted:
        request = json.dumps({"name": name, "case": asdict(case), "task": task})
        command = [sys.executable, "-m", "benchmarks.speed", "--peak", request]
        result[task] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result


def own_peak(name: str, case: Case, task: str) -> float:
    """Peak megabytes of a task in this process, above what it has before."""
    tiny = replace(case, clouds=1, points=256)
    tasks(CONTENDERS[name](tiny), tiny)[task]()  # loads what is loaded once
    work = tasks(CONTENDERS[name](case), case)[task]
    Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the highest mark so far
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    for _ in range(3):
        work()
    marks = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(marks["VmHWM"].split()[0]) / 1024 - pages * resource.getpagesize() / 2**20


def table(case: Case, names: Sequence[str], times: dict[str, dict[str, float]]) -> list[str]:
    """Lines of Markdown."""
    gigaflops = 2 * 2048**3 / statistics.median(times["roofline"].values()) / 1e9
    lines = [
        f"{case}; roofline {gigaflops:.0f} GFLOP/s",
        "",
        f"| flow | {' | '.join(TASKS)} |",
        "| --- | --- | --- | --- |",
    ]
    for name in names:
        cells = []
        for task in TASKS:
            ratio = times[names[0]][task] / times[name][task]
            work = case.multiply_adds() * (3 if task == "train" else 1)
            share = 2 * work / times[name][task] / 1e9 / gigaflops
            cells.append(f"{1e3 * times[name][task]:.1f} ms, {ratio:.2f} x, {share:.0%}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def draw_growth(names: Sequence[str], rounds: int, path: Path) -> None:
    """Draw time and peak memory of a training step against the points, the couplings and the clouds."""
    figure, axes = plt.subplots(2, len(GROWTH), figsize=(10, 6), sharey="row", layout="constrained")
    for (attribute, label, cases), (above, below) in zip(GROWTH, axes.T, strict=True):
        sizes = [getattr(case, attribute) for case in cases]
        times = [measure(case, names, rounds) for case in cases]
        for name in names:
            ink = {"color": INKS[name], "marker": "o", "markersize": 4}
            milliseconds = [1e3 * by_name[name]["train"] for by_name in times]
            megabytes = [peak_memory(name, case, ["train"])["train"] for case in cases]
            above.loglog(sizes, milliseconds, label=name, **ink)
            below.loglog(sizes, [memory if memory >= LEAST_MEMORY else math.nan for memory in megabytes], **ink)
            for size, time_spent, memory in zip(sizes, milliseconds, megabytes, strict=True):
                print(f"{attribute} {size}, {name}: {time_spent:.1f} ms, {memory:.1f} MB", flush=True)
        below.set_xlabel(label)
        for ax in (above, below):
            ax.set_xticks(sizes, [f"{size}" for size in sizes])
            ax.minorticks_off()
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(alpha=0.25)
    axes[0, 0].set_ylabel("training step, ms")
    axes[1, 0].set_ylabel("peak memory of a training step, MB")
    axes[0, 0].legend(frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds (%(default)s)")
    parser.add_argument("--cases", type=int, default=len(CASES), help="how many of the sizes, the main one first")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory")
    parser.add_argument("--figure", type=Path, help="draw how time and memory of a training step grow, too")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        request = json.loads(arguments.peak)
        print(own_peak(request["name"], Case(**request["case"]), request["task"]))
        return
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    for case in CASES[: arguments.cases]:
        print(
            *table(case, arguments.contenders, measure(case, arguments.contenders, arguments.rounds)),
            "",
            sep="\n",
            flush=True,
        )
        if not arguments.no_memory:
            print("| flow | log_prob, peak MB | train, peak MB |\n| --- | --- | --- |")
            for name in arguments.contenders:
                peak = peak_memory(name, case)
                print(f"| {name} | {peak['log_prob']:.0f} | {peak['train']:.0f} |", flush=True)
            print()
    if arguments.figure:
        draw_growth(arguments.contenders, arguments.rounds, arguments.figure)


if __name__ == "__main__":
    main()
