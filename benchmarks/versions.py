"""Whether this checkout is as fast as another one: both in turn, each run a process of its own, as ratios.

    python -m benchmarks.versions OTHER                 # OTHER: a folder that holds another version, say a git worktree
    python -m benchmarks.versions OTHER --rounds 3

The case is the main one of `benchmarks.speed`. A run warms up, then takes the median of its repeats; a ratio is that of
two runs side by side, this version over the other one, and the table shows the median of the ratios and their range.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.common.checkouts import checkout, compare, print_ratios, run

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


def measure(checkout: Path) -> dict[str, float]:
    """Seconds of each task in one run."""
    passes, _ = run(checkout, ["-c", PASSES])
    _, imported = run(checkout, ["-c", "import pyro_pcflow"])
    _, helped = run(checkout, ["-m", "pyro_pcflow", "--help"])
    return {**json.loads(passes.splitlines()[-1]), "import pyro_pcflow": imported, "pcflow --help": helped}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=checkout, help="a folder with another version of this project")
    parser.add_argument("--rounds", type=int, default=9, help="runs of each version (%(default)s)")
    arguments = parser.parse_args()
    print_ratios(*compare(measure, arguments.other, arguments.rounds))


if __name__ == "__main__":
    main()
