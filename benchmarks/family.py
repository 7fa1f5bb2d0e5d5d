"""Which density is the sharpest in the same seconds: what couplings do, the base, depth and width, on real shapes.

    python -m benchmarks.family MESH.obj ... body.npz --seconds 20 60 300       # all members: some hours
    python -m benchmarks.family spot.obj --members "cubic 12x64" "mixture 1024" "mixture 128 + cubic 4x64" --seeds 1
    python -m benchmarks.family spot.obj --scan 3000 --members default "affine 12x64"      # learn from few points
    python -m benchmarks.family spot.obj --sweep --rates 4e-3 8e-3 1.6e-2 --batch-sizes 1024 2048 --betas 0.99 0.999

A member is named by its parts: a mixture of so many Gaussians as base, or none, and couplings, as their number times
the width of their two hidden layers; "default" is a flow without options. On a mesh it is a density of points, trained
and scored as in `benchmarks.density`. On a category file it is the decoder of a `PointCloudVAE`, scored by the
importance-weighted bound of the val split (8 particles, 512 points of a cloud, noise of 0.02 standard deviations): the
test split is for what has been chosen. Each takes the best of the learning rates under the first seed; members take
turns.

With `--scan` a mesh is a scan: so many points without noise, which `noise="auto"` thickens, a tenth of them held out.
It is scored on other points without noise. With `--sweep` every combination of rates and other options of the training
is a line of the table, under the first seed.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import product
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
    "mixture 1024 + cubic 8x64",
)
DEFAULT = "default"
RATES = (4e-3, 8e-3, 1.6e-2)
_COUPLINGS = re.compile(r"(affine|additive|cubic|spline) (\d+)x(\d+)")
_MIXTURE = re.compile(r"mixture (\d+)")


@dataclass(frozen=True)
class Setting:
    """Options of a training."""

    lr: float
    batch_size: int | None = None
    second_beta: float = pcf.training.Optimization().betas[1]
    warmup_steps: int = pcf.training.Optimization().warmup_steps
    grad_clip: float = pcf.training.Optimization().grad_clip

    def for_fit(self) -> dict[str, Any]:
        """As arguments of `pyro_pcflow.fit`."""
        betas = (pcf.training.Optimization().betas[0], self.second_beta)
        optimization = pcf.training.Optimization(betas=betas, warmup_steps=self.warmup_steps, grad_clip=self.grad_clip)
        return {"lr": self.lr, "batch_size": self.batch_size, "optimization": optimization}


@dataclass(frozen=True)
class Run:
    """One training run and its score in nats per point, which on a category file is that of the val split."""

    shape: str
    member: str
    seconds: float
    seed: int
    setting: Setting
    steps: int
    parameters: int
    validation: float
    score: float


def options_of(member: str) -> dict[str, Any]:
    """Options of `PointCloudFlow`.

    Raises:
        ValueError: if a part is not understood.
    """
    if member == DEFAULT:
        return {}
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


def train_density(shape: Shape, member: str, setting: Setting, seed: int, seconds: float) -> Run:
    """Train a density of the points of one mesh, or of a scan, which has no noise yet."""
    make = partial(pcf.PointCloudFlow, 3, **options_of(member))
    is_scan = shape.noise == 0
    noise = "auto" if is_scan else shape.noise
    fitted = fit_flow(make, shape, seconds, seed, noise=noise, held_out=not is_scan, options=setting.for_fit())
    validation, score = (nats_per_point(fitted.density, points) for points in (shape.validation, shape.test))
    return Run(shape.name, member, seconds, seed, setting, fitted.steps, fitted.stored, validation, score)


def train_model(category: Category, member: str, setting: Setting, seed: int, seconds: float) -> Run:
    """Train a model of many clouds, and score the val split."""
    torch.manual_seed(seed)
    vae = pcf.PointCloudVAE(3, decoder=options_of(member))
    quiet = pcf.training.Logging(progress=False)
    options: dict[str, Any] = {"noise": NOISE_PER_DEVIATION, "held_out": 0, "seed": seed, "logging": quiet}
    try:
        steps = pcf.fit(vae, category.train, max_seconds=seconds, **setting.for_fit(), **options).steps
    except pcf.training.TrainingDivergedError as error:
        steps = error.step
    training = Training(seconds, None, NOISE_PER_DEVIATION, scored_points=512, particles=8, device="cpu")
    score = bound(vae, category.validation, training).nats_per_point
    score = score if math.isfinite(score) else -math.inf
    return Run(category.name, member, seconds, seed, setting, steps, count_parameters(vae), score, score)


def describe(run: Run) -> str:
    """One run as a line of text."""
    return (
        f"{run.shape} {run.member}, {run.seconds:g} s, seed {run.seed}, lr {run.setting.lr:g}: "
        f"{run.score:.3f} nats per point after {run.steps} steps"
    )


def row(member: str, runs: Sequence[Run], shapes: Sequence[str]) -> str:
    """A line of the Markdown table: the mean over seeds on every shape, with its rate and range."""
    cells = [member, f"{runs[0].parameters:,}"]
    for shape in shapes:
        mine = [run for run in runs if run.shape == shape]
        scores = [run.score for run in mine]
        spread = f" ({min(scores):.3f} to {max(scores):.3f})" if len(scores) > 1 else ""
        steps = statistics.mean(run.steps for run in mine)
        cells.append(f"{statistics.mean(scores):.3f}{spread}, {mine[0].setting.lr:g}, {steps:.0f}")
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


def sweep_table(runs: Sequence[Run]) -> str:
    """The Markdown table of single runs, with all of their options."""
    head = ["shape", "density", *(field.name for field in fields(Setting)), "steps", "val", "score"]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for run in runs:
        options = ["" if value is None else f"{value:g}" for value in asdict(run.setting).values()]
        cells = [run.shape, run.member, *options, str(run.steps), f"{run.validation:.3f}", f"{run.score:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
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
    parser.add_argument("--scan", type=int, metavar="N", help="points to learn from, without noise")
    parser.add_argument("--sweep", action="store_true", help="a line for every run")
    optimization = pcf.training.Optimization()
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[None], help="points, or clouds, per step")
    parser.add_argument("--betas", type=float, nargs="+", default=[optimization.betas[1]], help="Adam's second beta")
    parser.add_argument("--warmups", type=int, nargs="+", default=[optimization.warmup_steps], help="warm-up steps")
    parser.add_argument("--clips", type=float, nargs="+", default=[optimization.grad_clip], help="largest gradients")
    parser.add_argument("--log", type=Path, help="append every run to this file, a JSON object per line")
    arguments = parser.parse_args()
    for member in arguments.members:
        try:
            options_of(member)
        except ValueError as error:
            parser.error(str(error))
    report = reporter(describe, arguments.log)
    load = partial(load_shape, num_points=arguments.scan, noise=0.0) if arguments.scan else load_shape
    trainers: list[Callable[..., Run]] = [
        partial(train_model, load_category(path)) if path.suffix == ".npz" else partial(train_density, load(path))
        for path in arguments.shapes
    ]
    choices = (arguments.rates, arguments.batch_sizes, arguments.betas, arguments.warmups, arguments.clips)
    combinations = [Setting(*values) for values in product(*choices)]
    settings = dict.fromkeys(arguments.members, combinations)
    tried: list[Run] = []

    def keep(run: Run) -> None:
        tried.append(run)
        report(run)

    for seconds in arguments.seconds:
        tried.clear()
        runs = [
            run
            for train in trainers
            for run in race(partial(train, seconds=seconds), settings, 1 if arguments.sweep else arguments.seeds, keep)
        ]
        print(f"\n{seconds:g} s\n\n{sweep_table(tried) if arguments.sweep else table(runs)}", flush=True)


if __name__ == "__main__":
    main()
