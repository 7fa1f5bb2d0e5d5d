"""Whether two million points load, are fitted and are scored as fast as by another version, and in as little memory.

    python -m benchmarks.reading OTHER                  # OTHER: a folder that holds another version, say a git worktree
    python -m benchmarks.reading OTHER --points 200000 --rounds 1

Files of one cloud are written into a temporary folder: npy in single and in double precision, binary PLY, and text.
Each run is a process of its own, on one thread, that loads all points of one file, fits a flow for one step, and scores
all points; the two versions take turns. Seconds are of the processor; memory is the most that a process has held.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch

import pyro_pcflow as pcf
from benchmarks.common.checkouts import checkout, compare, print_ratios, run

TASKS = """
import json, resource, sys, time, torch, pyro_pcflow as pcf

torch.set_num_threads(1)
seconds = {}


def timed(task, call):
    start = time.process_time()
    result = call()
    seconds[task] = time.process_time() - start
    return result


def score():
    with torch.no_grad():
        return [flow.log_prob(some) for some in clouds[0].float().split(65536)]


torch.manual_seed(0)
clouds = timed("load", lambda: pcf.data.load_clouds(sys.argv[1], None))
flow = pcf.PointCloudFlow(3, num_couplings=4)
timed("fit a step", lambda: pcf.fit(flow, clouds, max_steps=1, noise=0.01))
timed("score", score)
seconds["most memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps(seconds))
"""
MEMORY = "most memory"


def write_files(folder: Path, num_points: int) -> list[Path]:
    """One cloud in several formats."""
    points = torch.randn(1, num_points, 3, generator=torch.Generator().manual_seed(0))
    files = [
        pcf.data.save_clouds(points, folder / "single.npy"),
        pcf.data.save_clouds(points.double(), folder / "double.npy"),
        pcf.data.save_clouds(points, folder / "binary.ply"),
        folder / "text.xyz",
    ]
    np.savetxt(files[-1], points[0].numpy(), fmt="%.7g")
    return files


def measure(files: list[Path], checkout: Path) -> Mapping[str, float]:
    """Seconds of each task, and bytes, of one run of each file."""
    figures: dict[str, float] = {}
    for file in files:
        printed, _ = run(checkout, ["-c", TASKS, str(file)])
        figures |= {f"{file.name}: {task}": figure for task, figure in json.loads(printed.splitlines()[-1]).items()}
    return figures


def show(task: str, figure: float) -> str:
    """A figure with its unit."""
    return f"{figure / 1e9:.2f} GB" if task.endswith(MEMORY) else f"{figure:.2f} s"


def main() -> None:
    """Write files, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=checkout, help="a folder with another version of this project")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each version (%(default)s)")
    parser.add_argument("--points", type=int, default=2_000_000, help="of the cloud (%(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder), arguments.points)
        print_ratios(*compare(partial(measure, files), arguments.other, arguments.rounds), show=show)


if __name__ == "__main__":
    main()
