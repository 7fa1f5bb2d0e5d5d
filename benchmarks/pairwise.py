"""How long the three matrices of an evaluation take: samples-samples, references-references, samples-references.

    python -m benchmarks.pairwise body.npz                                # 405 and 405 clouds of 512 points
    python -m benchmarks.pairwise body.npz --clouds 40 --emd-pairs 4      # a smoke run

The clouds are the first of the file's `points`, half of them in the role of samples; where there are too few, they
repeat, turned by a quarter about the second axis. Chamfer matrices are computed whole, by `pairwise`. Exact and
approximate EMD are measured on a few pairs and multiplied by the number of pairs: extrapolated, and marked so. Peak
memory is that of the process, above what it had before its first matrix.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

import pyro_pcflow as pcf


def load(path: str, num_clouds: int, num_points: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Samples and references, each (num_clouds, num_points, 3) of float32."""
    with np.load(path, allow_pickle=False) as arrays:
        clouds = arrays["points"]
    if clouds.shape[1] < num_points:
        raise ValueError(f"{path}: {clouds.shape[1]} points per cloud, {num_points} asked")
    chosen = np.random.default_rng(seed).permutation(clouds.shape[1])[:num_points]
    clouds = clouds[:, chosen]
    while len(clouds) < 2 * num_clouds:
        clouds = np.concatenate([clouds, clouds[..., [2, 1, 0]] * [1, 1, -1]]).astype(np.float32)
    points = torch.from_numpy(clouds[: 2 * num_clouds].astype(np.float32))
    return points[:num_clouds], points[num_clouds:]


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds that one call takes, by the clock and of all cores together."""
    start, start_cores = time.perf_counter(), time.process_time()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - start_cores


def peak_mb() -> float:
    """The most memory that the process had so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clouds_file", help="an npz file with an array `points` (S, P, 3)")
    parser.add_argument("--clouds", type=int, default=405, help="of samples, and of references (%(default)s)")
    parser.add_argument("--points", type=int, default=512, help="of a cloud (%(default)s)")
    parser.add_argument("--emd-pairs", type=int, default=12, help="that EMD is measured on (%(default)s)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--progress", action="store_true", help="show bars")
    arguments = parser.parse_args()
    samples, references = (
        clouds.to(arguments.device) for clouds in load(arguments.clouds_file, arguments.clouds, arguments.points)
    )
    num = arguments.clouds
    print(
        f"{num} x {num} clouds of {arguments.points} points on {arguments.device}; {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    pcf.metrics.pairwise(samples[:2], references[:2])  # loads what is loaded once
    before = peak_mb()
    print(
        "| Chamfer matrix | pairs | seconds | core seconds | ms a pair | peak MB |",
        "| --- | --- | --- | --- | --- | --- |",
        sep="\n",
    )
    total = 0.0
    sets = {
        "samples-samples": (samples, None, num * (num - 1) // 2),
        "references-references": (references, None, num * (num - 1) // 2),
        "samples-references": (samples, references, num * num),
    }
    for name, (x, y, pairs) in sets.items():
        spent, cores = timed(partial(pcf.metrics.pairwise, x, y, progress=arguments.progress))
        total += spent
        print(
            f"| {name} | {pairs} | {spent:.1f} | {cores:.1f} | {1e3 * spent / pairs:.3f} | {peak_mb() - before:.0f} |",
            flush=True,
        )
    print(f"| all three | {sum(entry[2] for entry in sets.values())} | {total:.1f} | | | |\n")
    if arguments.emd_pairs < 1:
        return
    few = arguments.emd_pairs
    x = samples[torch.arange(few) % num]
    y = references[torch.arange(few) % num]
    print("| distance | pairs measured | ms a pair | all three matrices, extrapolated |\n| --- | --- | --- | --- |")
    symmetric = num * (2 * num - 1)
    work: list[tuple[str, Callable[..., Tensor], int]] = [
        ("exact EMD", pcf.metrics.emd, symmetric),
        ("approximate EMD", pcf.metrics.approximate_emd, 3 * num * num),
    ]
    for name, function, pairs in work:
        function(x[:1], y[:1])
        with torch.no_grad():
            spent = timed(partial(function, x, y))[0] / few
        print(f"| {name} | {few} | {1e3 * spent:.1f} | {spent * pairs / 60:.0f} minutes |", flush=True)


if __name__ == "__main__":
    main()
