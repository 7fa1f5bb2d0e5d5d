"""What the README's first block comes to with an empty kernel cache and with a full one.

    python -m benchmarks.first_use               # three times each, in turn
    python -m benchmarks.first_use --rounds 1 --seconds 5

Every run is a process of its own, as a user's first one is. Wall time includes imports and, with the empty cache, the
compiler; the seconds of training do not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import pyro_pcflow as pcf

TRAINING = """
import json, pyro_pcflow as pcf
clouds = pcf.data.load_example("spot", num_points=100_000)
flow = pcf.PointCloudFlow(point_dim=3)
noise = 0.01 * pcf.data.half_extent(clouds)
quiet = pcf.training.Logging(progress=False)
result = pcf.fit(flow, clouds, max_seconds={seconds}, noise=noise, logging=quiet)
print(json.dumps([result.nats_per_point, result.steps, result.seconds]))
"""


def train(seconds: float, environment: dict[str, str]) -> dict[str, float]:
    """One run in a new process, with some variables of its environment set."""
    start = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TRAINING.format(seconds=seconds)],
        env={**os.environ, **environment},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    score, steps, trained = json.loads(result.stdout.splitlines()[-1])
    return {"nats": score, "steps": steps, "trained": trained, "wall": time.perf_counter() - start}


def main() -> None:
    """Print the runs, and the medians of both kinds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind (%(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="seconds of training (%(default)s)")
    arguments = parser.parse_args()
    scores: dict[str, list[float]] = {"empty": [], "full": []}
    pcf.kernels.available()  # compiles the kernel into the cache of the user, unless it is there
    for _ in range(arguments.rounds):
        for kind, runs in scores.items():
            with tempfile.TemporaryDirectory() as empty:
                run = train(arguments.seconds, {"PYRO_PCFLOW_CACHE": empty} if kind == "empty" else {})
            runs.append(run["nats"])
            print(
                f"{kind} cache: {run['nats']:.3f} nats per point, {run['steps']:.0f} steps in {run['trained']:.1f} s, "
                f"{run['wall']:.1f} s in all",
                flush=True,
            )
    medians = {kind: statistics.median(runs) for kind, runs in scores.items()}
    print(
        f"medians: {medians['empty']:.3f} with an empty cache, {medians['full']:.3f} with a full one, "
        f"{medians['empty'] - medians['full']:+.3f}"
    )


if __name__ == "__main__":
    main()
