"""Whether this checkout is as fast as another one: both in turn, each run a process of its own, as ratios.

    python -m benchmarks.versions OTHER                 # OTHER: a folder that holds another version, say a git worktree
    python -m benchmarks.versions OTHER --rounds 3

The case is the main one of `benchmarks.speed`. A run warms up, then takes the median of its repeats; a ratio is that of
two runs side by side, this version over the other one, and the table shows the median of the ratios and their range.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parents[1]
PASSES = """
import json, statistics, time, torch, pyro_pcflow as pcf

torch.manual_seed(0)
flow = pcf.PointCloudFlow(3, 128, 12, (128, 128), masks="keep_one", context_layers=[0], num_frequencies=0)
points, context = torch.randn(16, 2048, 3), torch.randn(16, 128)
score = lambda: flow.log_prob(points.clone(), context.unsqueeze(-2))
work = {
    "log_prob": torch.no_grad()(score),
    "sample": torch.no_grad()(lambda: flow.cloud(context, num_points=2048).sample()),
    "training step": lambda: torch.autograd.grad(-score().mean(), list(flow.parameters())),
}
seconds = {task: [] for task in work}
for repeat in range(23):
    for task, call in work.items():
        start = time.perf_counter()
        call()
        seconds[task].append(time.perf_counter() - start)
print(json.dumps({task: statistics.median(runs[3:]) for task, runs in seconds.items()}))
"""


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


def measure(checkout: Path) -> dict[str, float]:
    """Seconds of each task in one run."""
    passes, _ = run(checkout, ["-c", PASSES])
    _, imported = run(checkout, ["-c", "import pyro_pcflow"])
    _, helped = run(checkout, ["-m", "pyro_pcflow", "--help"])
    return {**json.loads(passes.splitlines()[-1]), "import pyro_pcflow": imported, "pcflow --help": helped}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="a folder with another version of this project")
    parser.add_argument("--rounds", type=int, default=9, help="runs of each version (%(default)s)")
    arguments = parser.parse_args()
    other = arguments.other.resolve()
    if not (other / "pyro_pcflow" / "__init__.py").is_file():
        parser.error(f"{arguments.other} holds no folder pyro_pcflow")
    for checkout in (HERE, other):  # compiles the kernel and the byte code
        measure(checkout)
    ours: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []
    for number in range(arguments.rounds):
        # The second one finds a warmer machine.
        order = [(HERE, ours), (other, theirs)]
        for checkout, runs in order if number % 2 == 0 else reversed(order):
            runs.append(measure(checkout))
    print("| task | this version | the other | ratio | range |\n| --- | --- | --- | --- | --- |")
    for task in ours[0]:
        ratios = [mine[task] / yours[task] for mine, yours in zip(ours, theirs, strict=True)]
        mine, yours = (1e3 * statistics.median(run[task] for run in runs) for runs in (ours, theirs))
        print(
            f"| {task} | {mine:.1f} ms | {yours:.1f} ms | {statistics.median(ratios):.3f}"
            f" | {min(ratios):.3f} to {max(ratios):.3f} |"
        )


if __name__ == "__main__":
    main()
