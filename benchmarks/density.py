"""Held-out nats per point on single meshes, at equal seconds of training: ours, Pyro's own couplings, other densities.

    python -m benchmarks.density MESH_FOLDER                       # all contenders on meshes: some hours
    python -m benchmarks.density MESH_FOLDER --contenders "ours, by default" EM zuko
    python -m benchmarks.density MESH_FOLDER --scan 3000 --raw     # on scans: few points, and none thickened
    python -m benchmarks.density MESH_FOLDER --seconds 2 --seeds 1 # a smoke run
    python -m benchmarks.density MESH_FOLDER --exact               # what the true density would score

Points are sampled by area and thickened by Gaussian noise of 0.01 of the half extent of the bounding box, so that the
density is well-posed; log-densities are in units of that half extent. "pyro" and "ours, affine by default" have 12
couplings with two hidden layers of 64, and the same loop, batch and schedule. Each contender takes the best of several
settings, such as three learning rates, by a validation set of the first seed, and each setting has all the seconds.
Runs take turns, so that the load of the machine is the same for all; all are scored on the same points. A run that
diverges is scored by the last averaged weights that were finite, and marked. The true density, which nothing can beat,
is the mean of Gaussians around points of the surface, of which millions are drawn.

On a mesh, 200,000 points are there to learn from. A scan has as many as `--scan` says. Under `--raw` the points that
are chosen by and scored are those of the surface itself, to which no true density has an upper bound: contenders choose
their own noise by the validation set, and are compared with a kernel density estimate whose width is the best for the
very points that are scored. The validation set has 20,000 more points than anybody has who has a scan; what is called
"by default" does not see it.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from benchmarks.common.constants import NOISE_PER_HALF_EXTENT
from benchmarks.common.meshes import Shape, load_shape, mesh_paths
from benchmarks.common.racing import race, reporter
from benchmarks.common.scores import nats_per_point
from benchmarks.common.true_density import true_scores
from benchmarks.rivals.contenders import BAR, CONTENDERS, Setting

SCORED = 10_000
MEASURES = ("seconds", "steps", "diverged", "numbers stored", f"ms for {SCORED:,} points")


@dataclass(frozen=True)
class Run:
    """One training run, its scores in nats per point, its size, and the milliseconds to score 10,000 points."""

    mesh: str
    contender: str
    seed: int
    setting: Setting
    steps: int
    seconds: float
    validation: float
    test: float
    diverged_at: int | None
    stored: int
    milliseconds: float


def train(shape: Shape, contender: str, setting: Setting, seed: int, seconds: float) -> Run:
    """Train one contender and score it."""
    start = time.perf_counter()
    fitted = CONTENDERS[contender].fit(shape, seconds, seed, **setting)
    spent = time.perf_counter() - start
    validation, test = (nats_per_point(fitted.density, points) for points in (shape.validation, shape.test))
    start = time.perf_counter()
    nats_per_point(fitted.density, shape.test[:SCORED])
    scoring = time.perf_counter() - start
    return Run(
        mesh=shape.name,
        contender=contender,
        seed=seed,
        setting=setting,
        steps=fitted.steps,
        seconds=round(spent, 2),
        validation=validation,
        test=test,
        diverged_at=fitted.diverged_at,
        stored=fitted.stored,
        milliseconds=round(1000 * scoring, 1),
    )


def describe(run: Run) -> str:
    """One run as a line of text."""
    setting = "".join(f" {name} {value}" for name, value in run.setting.items())
    return (
        f"{run.mesh} {run.contender} seed {run.seed}{setting}: {run.test:.3f} nats per point after "
        f"{run.steps} steps in {run.seconds:.1f} s{'' if run.diverged_at is None else ', diverged'}"
    )


def contender_rows(runs: list[Run], references: Mapping[str, float | None]) -> list[str]:
    """A line per contender, the best one first.

    Args:
        runs: of all meshes.
        references: from a mesh to the score that contenders are compared with.
    """
    lines = []
    for name in {run.contender: None for run in runs}:
        mine = [run for run in runs if run.contender == name]
        ahead = [run.test - score for run in mine if (score := references[run.mesh]) is not None]
        cells = [
            name,
            f"{statistics.mean(run.test for run in mine):.3f}",
            f"{statistics.mean(ahead):+.3f} (least {min(ahead):+.3f})" if ahead else "",
            f"{statistics.mean(run.seconds for run in mine):.1f}",
            f"{statistics.mean(run.steps for run in mine):.0f}",
            str(sum(run.diverged_at is not None for run in mine)),
            f"{statistics.mean(run.stored for run in mine):,.0f}",
            f"{statistics.mean(run.milliseconds for run in mine):.0f}",
        ]
        lines.append((statistics.mean(run.test for run in mine), _line(cells)))
    return [line for _, line in sorted(lines, reverse=True)]


def mesh_rows(runs: list[Run], references: Mapping[str, float | None]) -> list[str]:
    """A line per mesh: the score that contenders are compared with, and that of each, as a mean with its range."""
    rows = []
    for mesh, score in references.items():
        of: dict[str, list[float]] = {}
        for run in runs:
            if run.mesh == mesh:
                of.setdefault(run.contender, []).append(run.test)
        cells = [f"{statistics.mean(own):.3f} ({min(own):.3f} to {max(own):.3f})" for own in of.values()]
        rows.append(_line([mesh, "" if score is None else f"{score:.3f}", *cells]))
    return rows


def _line(cells: Iterable[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def _header(*titles: str) -> str:
    """The first two lines of a Markdown table."""
    return f"{_line(titles)}\n{_line(['---'] * len(titles))}"


def exact_row(path: Path, shape: Shape) -> str:
    """What the true density scores on a mesh, with a standard error, as a line of a Markdown table."""
    scores = true_scores(path, shape)
    return _line([shape.name, f"{scores.mean():.3f}", f"{scores.std() / math.sqrt(len(scores)):.3f}"])


def reference(path: Path, shape: Shape, runs: list[Run]) -> float | None:
    """The score to compare with: that of the true density, or that of the best kernel density if there is none."""
    if shape.noise:
        return float(true_scores(path, shape).mean())
    return next((run.test for run in runs if (run.mesh, run.contender) == (shape.name, BAR)), None)


def main() -> None:
    """Run the comparison and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meshes", type=Path, help="a folder of meshes, or one mesh")
    parser.add_argument("--seconds", type=float, default=20.0, help="training time of each run")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each contender that enter the table")
    parser.add_argument("--exact", action="store_true", help="print what the true density scores, and train nothing")
    parser.add_argument(
        "--contenders", nargs="+", choices=CONTENDERS, metavar="NAME", help=f"some of: {'; '.join(CONTENDERS)}"
    )
    parser.add_argument("--scan", type=int, metavar="N", help="points to learn from")
    parser.add_argument("--raw", action="store_true", help="score points without noise")
    parser.add_argument("--log", type=Path, help="append every run to this file, a JSON object per line")
    arguments = parser.parse_args()
    if arguments.exact and arguments.raw:
        parser.error("--exact is of points with noise, for those of the surface itself have no bound: leave --raw out")
    noise = 0.0 if arguments.raw else NOISE_PER_HALF_EXTENT
    load = partial(load_shape, num_points=arguments.scan or 200_000, noise=noise)
    paths = mesh_paths(arguments.meshes, parser)
    if arguments.exact:
        print(_header("mesh", "true density", "standard error"))
        for path in paths:
            print(exact_row(path, load(path)), flush=True)
        return

    names = [name for name in CONTENDERS if name in (arguments.contenders or CONTENDERS)]
    for name in names:
        if find_spec(CONTENDERS[name].needs) is None:
            parser.error(
                f"{name!r} needs the package {CONTENDERS[name].needs}: pip install 'pyro-pcflow[bench]', or name others"
            )
    report = reporter(describe, arguments.log)
    runs: list[Run] = []
    references: dict[str, float | None] = {}
    for path in paths:
        shape = load(path)
        settings = {name: CONTENDERS[name].settings_for(shape) for name in names}
        runs += race(partial(train, shape, seconds=arguments.seconds), settings, arguments.seeds, report)
        references[shape.name] = reference(path, shape, runs)
    compared = "the true density" if noise else BAR
    others = [name for name in names if name != compared]
    print(_header("density", "nats per point", f"above {compared}", *MEASURES))
    print(*contender_rows(runs, references), sep="\n")
    print("\n" + _header("mesh", compared, *others))
    print(*mesh_rows([run for run in runs if run.contender in others], references), sep="\n")


if __name__ == "__main__":
    main()
