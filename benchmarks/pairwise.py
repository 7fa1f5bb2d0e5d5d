"""How long the three matrices of an evaluation take: samples-samples, references-references, samples-references.

    python -m benchmarks.pairwise body.npz                                # 405 and 405 clouds of 512 points
    python -m benchmarks.pairwise body.npz --clouds 40 --emd-pairs 4      # a smoke run

The clouds are the first of the file's `points`, half of them in the role of samples; where there are too few, they
repeat, turned by a quarter about the second axis. Chamfer matrices are computed whole, by `pairwise`, and so are those
of nearest neighbours by exact EMD, as `evaluate` asks for them. Whole matrices of exact and approximate EMD are
measured on a few pairs and multiplied by the number of pairs: extrapolated, and marked so. On those few pairs distances
are compared with what SciPy takes to find nearest points and matchings, in turn, on one thread; the ratio is the median
of rounds. Peak memory is that of the process, above what it had before its first matrix.
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
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from torch import Tensor

import pyro_pcflow as pcf

# As `evaluate` takes by default.
SPREAD_PAIRS = 5000


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


def contenders(x: Tensor, y: Tensor) -> list[tuple[str, Callable[[], object], Callable[[], object]]]:
    """What does the same for pairs of clouds (P, N, D): ours, compiled where that can be, and by SciPy."""
    clouds = [points.double().numpy() for points in (x, y)]

    def trees() -> None:
        for one, other in zip(*clouds, strict=True):
            cKDTree(other).query(one)
            cKDTree(one).query(other)

    def matchings() -> None:
        for one, other in zip(*clouds, strict=True):
            linear_sum_assignment(cdist(one, other))

    return [
        ("Chamfer distance", partial(pcf.metrics.chamfer, x, y), trees),
        ("exact EMD", partial(pcf.metrics.emd, x, y), matchings),
    ]


def random_pairs(num_clouds: int) -> Tensor:
    """Which pairs of a set spread is taken over, (S, S), true above the diagonal only."""
    first, second = torch.triu_indices(num_clouds, num_clouds, 1)
    chosen = torch.randperm(len(first), generator=torch.Generator().manual_seed(0))[:SPREAD_PAIRS]
    needed = torch.zeros(num_clouds, num_clouds, dtype=torch.bool)
    needed[first[chosen], second[chosen]] = True
    return needed


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clouds_file", help="an npz file with an array `points` (S, P, 3)")
    parser.add_argument("--clouds", type=int, default=405, help="of samples, and of references (%(default)s)")
    parser.add_argument("--points", type=int, default=512, help="of a cloud (%(default)s)")
    parser.add_argument("--emd-pairs", type=int, default=12, help="that EMD is measured on (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of comparisons (%(default)s)")
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
    print(
        "| nearest neighbours by exact EMD | pairs | seconds | core seconds | ms a pair | peak MB |",
        "| --- | --- | --- | --- | --- | --- |",
        sep="\n",
    )
    total = 0.0
    for name, (x, y, pairs) in sets.items():
        needed = torch.zeros(num, num, dtype=torch.bool) if y is not None else random_pairs(num)
        work_of_it = partial(pcf.metrics.pairwise, x, y, "emd", needed=needed, progress=arguments.progress)
        spent, cores = timed(work_of_it)
        total += spent
        print(
            f"| {name} | {pairs} | {spent:.1f} | {cores:.1f} | {1e3 * spent / pairs:.3f} | {peak_mb() - before:.0f} |",
            flush=True,
        )
    print(f"| all three | {sum(entry[2] for entry in sets.values())} | {total:.1f} | | | |\n")
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
    print("\n| on one thread | ms a pair | SciPy, ms a pair | ratio |\n| --- | --- | --- | --- |")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, ours, scipys in contenders(x.cpu(), y.cpu()):
        times = np.array([[timed(work)[0] for work in (ours, scipys)] for _ in range(arguments.rounds)])
        own, theirs = 1e3 * np.median(times, 0) / few
        print(f"| {name} | {own:.3f} | {theirs:.3f} | {np.median(times[:, 1] / times[:, 0]):.1f} |", flush=True)
    torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
