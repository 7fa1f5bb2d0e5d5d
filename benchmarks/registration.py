"""The pose of a known object in a scan: whether regions of the posterior cover the true pose as often as they say.

    python -m benchmarks.registration MESH_FOLDER                                # 100 scans
    python -m benchmarks.registration MESH_FOLDER --scans 4 --seconds 2          # a smoke run
    python -m benchmarks.registration MESH_FOLDER --doubts                       # how often it doubts its result

A flow is trained on each mesh. The scans are shared out over the meshes: 300 points each, 285 of them points of the
mesh's surface that the flow was not trained on, with its noise, under a uniform rotation and a normal translation of
one half extent, and 15 outliers, uniform in the bounding box of these. `pcf.infer.register` starts from nothing.

A rotation is covered if it lies in the highest-density region of the posterior: its density under the mixture of the
modes, each a normal in its tangent space, is among the highest 90% of those of the draws. A translation is covered
likewise. The trained flows are kept in the folder that `--flows` names, and are taken from there if they are there.

With `--doubts` the same scans, which are good, and others that are spoilt in some way are registered, and counted where
`Registration.check` speaks against the result.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyro
import torch
from scipy.stats import mannwhitneyu
from torch import Tensor
from torch.distributions import MultivariateNormal

import pyro_pcflow as pcf
from benchmarks.common.meshes import Shape, load_shape, mesh_paths

NUM_POINTS, NUM_OUTLIERS = 285, 15
LEVEL = 0.9


@dataclass(frozen=True)
class Trial:
    """What became of one scan.

    Attributes:
        rotation_covered: whether the region holds the true rotation.
        translation_covered: likewise.
        degrees: angle between the likeliest rotation and the true one.
        distance: between the likeliest translation and the true one, in half extents.
        modes: number of distinct poses.
        auroc: of outliers by their probability.
        seconds: of the processor.
    """

    rotation_covered: bool
    translation_covered: bool
    degrees: float
    distance: float
    modes: int
    auroc: float
    seconds: float


def log_density(modes: pcf.infer.PoseModes, rotation: Tensor, translation: Tensor) -> tuple[Tensor, Tensor]:
    """The log-densities of rotations `(K, 3, 3)` and of translations `(K, 3)` under the mixture of the modes."""
    away = pcf.transforms.rotation_vector(modes.rotation.mT @ rotation.unsqueeze(1))
    shift = translation.unsqueeze(1) - modes.translation
    parts = []
    for offset, some in ((away, slice(0, 3)), (shift, slice(3, 6))):
        covariance = modes.covariance[:, some, some].double()
        normal = MultivariateNormal(torch.zeros_like(covariance[..., 0]), covariance)
        parts.append((modes.weight.double().log() + normal.log_prob(offset.double())).logsumexp(-1))
    return parts[0], parts[1]


def covers(
    found: pcf.infer.Registration, rotation: Tensor, translation: Tensor, level: float = LEVEL
) -> tuple[bool, bool]:
    """Whether the highest-density regions of the draws hold a rotation and a translation."""
    drawn = log_density(found.modes, found.rotation, found.translation)
    true = log_density(found.modes, rotation.unsqueeze(0), translation.unsqueeze(0))
    inside = [bool(one >= many.quantile(1 - level)) for one, many in zip(true, drawn, strict=True)]
    return inside[0], inside[1]


def make_scan(points: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A scan of `(300, 3)` with the outliers last, and the rotation and translation that it was made by."""
    pyro.set_rng_seed(seed)
    rotation, translation = pcf.transforms.rotation_matrix(torch.randn(4)), torch.randn(3)
    posed = points[torch.randperm(len(points))[:NUM_POINTS]] @ rotation.T + translation
    low, high = posed.amin(0), posed.amax(0)
    return torch.cat([posed, low + (high - low) * torch.rand(NUM_OUTLIERS, 3)]), rotation, translation


def run_trial(flow: pcf.PointCloudFlow, points: Tensor, seed: int, method: str, temper: float, draws: int) -> Trial:
    """Register one scan and compare with the truth."""
    scan, rotation, translation = make_scan(points, seed)
    begin = time.process_time()
    found = pcf.infer.register(flow, scan, method=method, temper=temper, num_samples=draws)
    seconds = time.process_time() - begin
    outlier = found.outlier_probability
    auroc = mannwhitneyu(outlier[NUM_POINTS:], outlier[:NUM_POINTS]).statistic / (NUM_POINTS * NUM_OUTLIERS)
    away = pcf.transforms.rotation_vector(found.modes.rotation[0].mT @ rotation)
    return Trial(
        *covers(found, rotation, translation),
        math.degrees(away.norm().item()),
        (found.modes.translation[0] - translation).norm().item(),
        len(found.modes.weight),
        float(auroc),
        seconds,
    )


def spoilt(scan: Tensor, other: Tensor) -> dict[str, Tensor]:
    """Scans that are not what a flow was trained for, by what is wrong with them; `other` is one of another object."""
    middle = scan.median(0).values
    away = scan - middle
    half = away @ torch.linalg.svd(away, full_matrices=False).Vh[0] > 0
    low, high = scan.amin(0), scan.amax(0)
    anywhere = low + (high - low) * torch.rand_like(scan)
    return {
        "ten times as large": middle + 10 * away,
        "a tenth as large": middle + 0.1 * away,
        "twice as large": middle + 2 * away,
        "half as large": middle + 0.5 * away,
        "another object": other,
        "half of it": scan[half],
        "half outliers": torch.where(torch.arange(len(scan)).unsqueeze(-1) % 2 == 0, anywhere, scan),
    }


def doubts(shapes: Sequence[Shape], flows: Sequence[pcf.PointCloudFlow], arguments: argparse.Namespace) -> None:
    """Print how many scans of each kind are doubted."""
    counts: dict[str, list[bool]] = {}
    for scan in range(arguments.scans):
        number = scan % len(shapes)
        seed = 100_000 * arguments.seed + scan
        points = make_scan(shapes[number].test, seed)[0]
        other = make_scan(shapes[(number + 1) % len(shapes)].test, seed)[0]
        for kind, one in {"good": points, **spoilt(points, other)}.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                report = pcf.infer.register(flows[number], one).check()
            counts.setdefault(kind, []).append(not report)
            print(shapes[number].name, kind, report, file=sys.stderr, flush=True)
    print("| scans | number | doubted |\n| --- | --- | --- |")
    for kind, found in counts.items():
        print(f"| {kind} | {len(found)} | {statistics.mean(found):.0%} |")


def trained_flow(shape: Shape, seconds: float, folder: Path | None) -> pcf.PointCloudFlow:
    """A flow of a mesh, or the one that is kept."""
    path = None if folder is None else folder / f"{shape.name}.pt"
    if path is not None and path.exists():
        flow = pcf.load(path)
        assert isinstance(flow, pcf.PointCloudFlow)
    else:
        torch.manual_seed(0)
        flow = pcf.PointCloudFlow(3)
        quiet = pcf.training.Logging(progress=False)
        pcf.fit(flow, shape.train, max_seconds=seconds, noise=shape.noise, held_out=0, logging=quiet)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            pcf.save(flow, path)
    return flow.eval().requires_grad_(False)


def row(name: str, trials: Sequence[Trial]) -> str:
    """One line of the table: coverages with binomial standard errors, and medians."""

    def share(covered: list[bool]) -> str:
        mean = statistics.mean(covered)
        error = math.sqrt(mean * (1 - mean) / len(covered))
        return f"{mean:.1%} ± {error:.1%}"

    cells = [
        name,
        str(len(trials)),
        share([trial.rotation_covered for trial in trials]),
        share([trial.translation_covered for trial in trials]),
        *(
            f"{statistics.median(errors):.3g}{unit} (most {max(errors):.3g}{unit})"
            for errors, unit in (
                ([trial.degrees for trial in trials], "°"),
                ([trial.distance for trial in trials], ""),
            )
        ),
        f"{statistics.mean(trial.modes for trial in trials):.2f}",
        f"{statistics.mean(trial.auroc for trial in trials):.3f}",
        f"{statistics.mean(trial.seconds for trial in trials):.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Train, register and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meshes", type=Path, help="a mesh, or a folder of .obj files")
    parser.add_argument("--seconds", type=float, default=20.0, help="training of each flow (%(default)s)")
    parser.add_argument("--scans", type=int, default=100, help="in all (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the scans (%(default)s)")
    parser.add_argument("--method", default="laplace", help="laplace or hmc (%(default)s)")
    parser.add_argument("--temper", type=float, default=1.0, help="exponent of the likelihood (%(default)s)")
    parser.add_argument("--draws", type=int, default=1000, help="of each posterior (%(default)s)")
    parser.add_argument("--flows", type=Path, help="a folder where trained flows are kept")
    parser.add_argument("--doubts", action="store_true", help="count where `Registration.check` doubts the result")
    arguments = parser.parse_args()
    paths = mesh_paths(arguments.meshes, parser)
    if arguments.doubts:
        shapes = [load_shape(path) for path in paths]
        doubts(shapes, [trained_flow(shape, arguments.seconds, arguments.flows) for shape in shapes], arguments)
        return
    print(
        "| mesh | scans | 90% regions cover the rotation | the translation | error of the rotation | of the "
        "translation, half extents | modes | AUROC of outliers | CPU seconds a scan |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        flush=True,
    )
    every: list[Trial] = []
    for number, path in enumerate(paths):
        shape = load_shape(path)
        flow = trained_flow(shape, arguments.seconds, arguments.flows)
        trials = []
        for scan in range(number, arguments.scans, len(paths)):
            seed = 100_000 * arguments.seed + scan
            trials.append(run_trial(flow, shape.test, seed, arguments.method, arguments.temper, arguments.draws))
            print(shape.name, scan, trials[-1], file=sys.stderr, flush=True)
        every += trials
        if trials:
            print(row(path.stem, trials), flush=True)
    print(row("all", every))


if __name__ == "__main__":
    main()
