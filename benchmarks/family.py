"""Which density is the sharpest in the same seconds: what couplings do, the base, depth and width, on real shapes.

    python -m benchmarks.family MESH.obj ... body.npz --seconds 20 60 300       # all members: some hours
    python -m benchmarks.family spot.obj --members "cubic 12x64" "mixture 1024" "mixture 128 + cubic 4x64" --seeds 1

A member is named by its parts: a mixture of so many Gaussians as base, or none, and couplings, as their number times
the width of their two hidden layers. On a mesh it is a density of points, trained and scored as in
`benchmarks.density`. On a category file it is the decoder of a `PointCloudVAE`, scored by the importance-weighted bound
of the val split (8 particles, 512 points of a cloud, noise of 0.02 standard deviations): the test split is for what has
been chosen. Each takes the best of the learning rates under the first seed; members take turns.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import pyro_pcflow as pcf
from benchmarks.common.categories import Category, load_category
from benchmarks.common.constants import NOISE_PER_DEVIATION
from benchmarks.common.meshes import Shape, load_shape
from benchmarks.common.racing import race, reporter
from benchmarks.common.scores import count_parameters, nats_per_point
from benchmarks.families.records import Training
from benchmarks.families.runs import bound
from benchmarks.rivals.fitted import fit_flow

MEMBERS = (
    "affine 12x64",
    "cubic 12x64",
    "spline 12x64",
    "mixture 128",
    "mixture 1024",
    "mixture 128 + affine 4x64",
    "mixture 128 + cubic 4x64",
    "mixture 1024 + cubic 4x64",
)
RATES = (4e-3, 8e-3, 1.6e-2)
_COUPLINGS = re.compile(r"(affine|additive|cubic|spline) (\d+)x(\d+)")
_MIXTURE = re.compile(r"mixture (\d+)")


@dataclass(frozen=True)
class Run:
    """One training run and its score in nats per point, which on a category file is that of the val split."""

    shape: str
    member: str
    seconds: float
    seed: int
    lr: float
    steps: int
    parameters: int
    validation: float
    score: float


def options_of(member: str) -> dict[str, Any]:
    """Options of `PointCloudFlow`.

    Raises:
        ValueError: if a part is not understood.
    """
    options: dict[str, Any] = {"num_couplings": 0}
    for part in member.split(" + "):
        if match := _MIXTURE.fullmatch(part):
            options |= {"base": "mixture", "num_components": int(match[1])}
        elif match := _COUPLINGS.fullmatch(part):
            width = int(match[3])
            options |= {"coupling": match[1], "num_couplings": int(match[2]), "hidden_dims": [width, width]}
        else:
            raise ValueError(
                f"{member!r}: expected parts such as 'mixture 128' and 'cubic 12x64', joined by ' + ', got {part!r}"
            )
    return options


def train_density(shape: Shape, member: str, lr: float, seed: int, seconds: float) -> Run:
    """Train a density of the points of one mesh."""
    make = partial(pcf.PointCloudFlow, 3, **options_of(member))
    fitted = fit_flow(make, shape, seconds, seed, noise=shape.noise, lr=lr)
    validation, score = (nats_per_point(fitted.density, points) for points in (shape.validation, shape.test))
    return Run(shape.name, member, seconds, seed, lr, fitted.steps, fitted.stored, validation, score)


def train_model(category: Category, member: str, lr: float, seed: int, seconds: float) -> Run:
    """Train a model of many clouds, and score the val split."""
    torch.manual_seed(seed)
    vae = pcf.PointCloudVAE(3, decoder=options_of(member))
    quiet = pcf.training.Logging(progress=False)
    options: dict[str, Any] = {"noise": NOISE_PER_DEVIATION, "held_out": 0, "seed": seed, "logging": quiet}
    try:
        steps = pcf.fit(vae, category.train, max_seconds=seconds, lr=lr, **options).steps
    except pcf.training.TrainingDivergedError as error:
        steps = error.step
    training = Training(seconds, None, NOISE_PER_DEVIATION, scored_points=512, particles=8, device="cpu")
    score = bound(vae, category.validation, training).nats_per_point
    score = score if math.isfinite(score) else -math.inf
    return Run(category.name, member, seconds, seed, lr, steps, count_parameters(vae), score, score)


def describe(run: Run) -> str:
    """One run as a line of text."""
    return (
        f"{run.shape} {run.member}, {run.seconds:g} s, seed {run.seed}, lr {run.lr:g}: {run.score:.3f} nats per point "
        f"after {run.steps} steps"
    )


def row(member: str, runs: Sequence[Run], shapes: Sequence[str]) -> str:
    """A line of the Markdown table: the mean over seeds on every shape, with its rate and range."""
    cells = [member, f"{runs[0].parameters:,}"]
    for shape in shapes:
        mine = [run for run in runs if run.shape == shape]
        scores = [run.score for run in mine]
        spread = f" ({min(scores):.3f} to {max(scores):.3f})" if len(scores) > 1 else ""
        steps = statistics.mean(run.steps for run in mine)
        cells.append(f"{statistics.mean(scores):.3f}{spread}, {mine[0].lr:g}, {steps:.0f}")
    return f"| {' | '.join(cells)} |"


def table(runs: Sequence[Run]) -> str:
    """The Markdown table of the runs of one length."""
    shapes, members = (
        list(dict.fromkeys(names)) for names in zip(*((run.shape, run.member) for run in runs), strict=True)
    )
    head = ["density", "numbers", *(f"{shape}: nats per point, rate, steps" for shape in shapes)]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    lines += [row(member, [run for run in runs if run.member == member], shapes) for member in members]
    return "\n".join(lines)


def main() -> None:
    """Run the comparison and print a table per length of training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", type=Path, nargs="+", help="meshes, and category files with points and split")
    parser.add_argument(
        "--members", nargs="+", default=MEMBERS, metavar="NAME", help=f"by default {'; '.join(MEMBERS)}"
    )
    parser.add_argument("--seconds", type=float, nargs="+", default=[20.0], help="training times (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each member that enter the table")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="learning rates (%(default)s)")
    parser.add_argument("--log", type=Path, help="append every run to this file, a JSON object per line")
    arguments = parser.parse_args()
    for member in arguments.members:
        try:
            options_of(member)
        except ValueError as error:
            parser.error(str(error))
    report = reporter(describe, arguments.log)
    trainers: list[Callable[..., Run]] = [
        partial(train_model, load_category(path)) if path.suffix == ".npz" else partial(train_density, load_shape(path))
        for path in arguments.shapes
    ]
    settings = dict.fromkeys(arguments.members, arguments.rates)
    for seconds in arguments.seconds:
        runs = [
            run
            for train in trainers
            for run in race(partial(train, seconds=seconds), settings, arguments.seeds, report)
        ]
        print(f"\n{seconds:g} s\n\n{table(runs)}", flush=True)


if __name__ == "__main__":
    main()
