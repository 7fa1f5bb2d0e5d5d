r"""How good posteriors of partial clouds are, and what they cost: score, coverage, seconds.

    python -m benchmarks.posterior body.npz --out runs/posterior           # the shipped model, hours
    python -m benchmarks.posterior face.npz chair.npz --out runs/posterior --clouds 50
    python -m benchmarks.posterior body.npz --views half --points 100 --out runs/smoke --clouds 5

Of every category, some clouds that the model was not trained on and as many that it draws itself are seen by a sensor,
in some number of points, and completed by each method. A category without a pretrained model gets one here, and a
completer. Finished rows are kept in the run folder, and not done again.

*Score*: mean log predictive density of 250 hidden points given 64 draws, averaged over four sets of them, over that of
the prior, in nats per point, with its paired standard error over clouds; *worst* is that of the worst cloud. *HDR*:
share of hidden points within the highest-density region of a level. *f90*: share of ten functionals of the hidden part
within their central 90% interval. The clouds are of the test split, thickened as in training. Where there are outliers,
or noise of 0.05, the method "default" has their share, or width, as a latent of each cloud, and "plain" does not know
of them.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib
import torch
from torch import Tensor
from torch.distributions import Distribution

import pyro_pcflow as pcf
from benchmarks.common.categories import load_splits
from benchmarks.common.constants import NOISE_PER_HALF_EXTENT
from benchmarks.common.hidden_points import LEVELS, score_hidden
from benchmarks.common.sensors import (
    VIEWS,
    Sensor,
    Trouble,
    box_of_outliers,
    draw_points,
    make_sensor,
    with_outliers,
)

NUM_DRAWS = 256
# Which axis stands upright, and which clouds come with a model.
UP = {"body": (0.0, 0.0, 1.0), "face": (0.0, 1.0, 0.0), "chair": (0.0, 1.0, 0.0)}
PRETRAINED = {"body"}
# Methods, and where they are run: the slow ones for 100 points from one side, of few clouds.
METHODS = ("prior", "completer", "default", "plain", "hmc at 1", "hmc without", "svi", "nuts")
FEW = {"hmc without": 20, "svi": 20, "nuts": 4}
Observe: TypeAlias = Callable[[Distribution], Distribution]
# Points that a cloud of the model has.
OWN_POINTS = 4096


@dataclass(frozen=True)
class Problem:
    """Partial clouds, and what a sensor did not record of them."""

    clouds: Tensor
    recorded: Tensor
    partial: Tensor
    mask: Tensor
    sensor: Sensor
    observe: Observe | None

    def first(self, count: int) -> Problem:
        """The same of some clouds, for a sensor that is the same for all."""
        return Problem(
            self.clouds[:count],
            self.recorded[:count],
            self.partial[:count],
            self.mask[:count],
            self.sensor,
            self.observe,
        )


def make_problem(clouds: Tensor, view: str, num_points: int, up: Tensor) -> Problem:
    """See clouds, shape `(B, N, 3)`, by a sensor, in at most so many points."""
    sensor, trouble = make_sensor(view, clouds, up), VIEWS[view]
    measured = clouds + trouble.noise * torch.randn_like(clouds) if trouble.noise else clouds
    recorded = sensor.records(measured)
    partial, mask = draw_points(measured, recorded, num_points)
    observe = sensor.observe
    if observe is not None and trouble.outliers:
        partial = with_outliers(partial, trouble.outliers, *box_of_outliers(clouds))
        observe = _in_turn(observe, pcf.infer.UnknownBackground.around(partial, mask))
    if observe is not None and trouble.noise:
        observe = _in_turn(pcf.infer.UnknownNoise.around(partial, mask), observe)
    return Problem(clouds, recorded, partial, mask, sensor, observe)


def _in_turn(first: Observe, then: Observe) -> Observe:
    return lambda point: then(first(point))


def infer(method: str, completer: Any, problem: Problem) -> tuple[Tensor, dict[str, Any]]:
    """Draws of the latents, shape `(K, B, L)`, and diagnostics."""
    model, batch = completer.model, len(problem.clouds)
    if method == "prior":
        return model.latent_prior().expand((batch,)).sample((NUM_DRAWS,)), {}
    options: dict[str, dict[str, Any]] = {
        "completer": {"method": "completer", "proposal": completer},
        "default": {"proposal": completer},
        "plain": {"proposal": completer},
        # The default number of chains is for an exponent that forgives; Bayes' rule has more modes to find.
        "hmc at 1": {"proposal": completer, "temper": 1.0, "num_chains": 256, "warmup_steps": 8, "num_steps": 8},
        "hmc without": {"method": "hmc"},
        "svi": {"method": "svi"},
        "nuts": {"method": "nuts"},
    }
    found = pcf.complete(
        model,
        problem.partial,
        problem.partial.shape[1],
        mask=problem.mask,
        observe=problem.sensor.observe if method == "plain" else problem.observe,
        num_samples=NUM_DRAWS,
        **options[method],
    )
    return found.latents["z"], found.diagnostics


def run_row(method: str, completer: Any, problem: Problem) -> dict[str, Any]:
    """Scores of each cloud, in lists, and what they cost."""
    begin = time.process_time()
    latents, diagnostics = infer(method, completer, problem)
    seconds = (time.process_time() - begin) / len(problem.clouds)
    with torch.no_grad():
        scores = score_hidden(completer.model, latents, problem.sensor, problem.clouds, problem.recorded)
    row: dict[str, Any] = {
        "seconds": seconds,
        "score": scores.score.tolist(),
        "regions": scores.regions.tolist(),
        "intervals": scores.intervals.tolist(),
    }
    if "r_hat_log_likelihood" in diagnostics:
        row["r_hat"] = float(diagnostics["r_hat"].median())
        row["r_hat_log_likelihood"] = float(diagnostics["r_hat_log_likelihood"].median())
    return row


def prepare(path: Path, folder: Path, seconds: float) -> Any:
    """The completer of a category: the shipped one, that of the run folder, or a new one."""
    name = path.stem
    if name in PRETRAINED:
        return pcf.load_pretrained(name).completer
    file = folder / f"{name}.pt"
    if file.exists():
        return pcf.load(file)
    train, validation, _ = load_splits(path)
    noise = NOISE_PER_HALF_EXTENT * pcf.data.half_extent(train[0])
    options: dict[str, Any] = {"held_out": validation, "noise": noise, "max_seconds": seconds}

    def trained(stage: str, make: Callable[[], Any]) -> Any:
        """What a stage leaves in the run folder, so that an interrupted run goes on after it."""
        kept = folder / f"{name}-{stage}.pt"
        if not kept.exists():
            torch.manual_seed(0)
            module = make()
            print(pcf.fit(module, train, **options), flush=True)
            pcf.save(module, kept)
        return pcf.load(kept)

    vae = trained("model", lambda: pcf.PointCloudVAE(3))
    completer = trained("completer", lambda: pcf.infer.Completer(vae))
    generator = torch.Generator().manual_seed(0)
    thick = validation + noise * torch.randn(validation.shape, generator=generator)
    print(pcf.infer.calibrate_temper(completer, thick[:50]), flush=True)
    pcf.save(completer, file)
    return completer


def settings(arguments: argparse.Namespace) -> Iterator[tuple[str, int, str, str]]:
    """Views, numbers of points, whose clouds, and methods."""
    for view in arguments.views:
        for count in arguments.points:
            for whose in arguments.whose:
                for method in arguments.methods:
                    usual = view == "half" and count == 100
                    where = {"plain": VIEWS[view] != Trouble(), "hmc at 1": usual and whose == "own"}
                    if method in FEW:
                        where[method] = usual
                    if where.get(method, True):
                        yield view, count, whose, method


def clouds_of(completer: Any, path: Path, whose: str, count: int) -> Tensor:
    """Clouds of the test split, thickened, or of the model."""
    if whose == "own":
        with torch.no_grad():
            return completer.simulate(count, OWN_POINTS)[1]
    train, _, test = load_splits(path)
    noise = NOISE_PER_HALF_EXTENT * pcf.data.half_extent(train[0])
    test = test[:count]
    return test + noise * torch.randn_like(test)


def table(rows: list[dict[str, Any]]) -> str:
    """Rows in Markdown; the score is over the prior of the same clouds."""
    priors = {_of(row): row for row in rows if row["method"] == "prior"}
    lines = [
        "| shapes | view | points | clouds | method | score over prior | worst | HDR50 | HDR90 | f90 | r_hat | CPU s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    half, ninety = LEVELS.index(0.5), LEVELS.index(0.9)
    for row in rows:
        prior = priors.get(_of(row))
        score = torch.tensor(row["score"])
        gain, worst = "", ""
        if prior is not None and row["method"] != "prior":
            over = score - torch.tensor(prior["score"])[: len(score)]
            gain = f"{over.mean():+.2f} ± {over.std() / math.sqrt(len(over)):.2f}"
            worst = f"{over.min():+.2f}"
        regions, intervals = torch.tensor(row["regions"]), torch.tensor(row["intervals"])
        r_hat = f"{row['r_hat']:.2f}" if "r_hat" in row else ""
        lines.append(
            f"| {row['category']} | {row['view']} | {row['points']} | {len(score)} {row['whose']} | {row['method']} | "
            f"{gain} | {worst} | {regions[:, half].mean():.2f} | {regions[:, ninety].mean():.2f} | "
            f"{intervals[:, ninety].mean():.2f} | {r_hat} | {row['seconds']:.2f} |"
        )
    return "\n".join(lines)


def _of(row: dict[str, Any]) -> tuple[Any, ...]:
    """Which clouds a row is of."""
    return row["category"], row["view"], row["points"], row["whose"]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Coverage against level, of held-out clouds seen from one side, a panel for each number of points."""
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    rows = [row for row in rows if row["view"] == "half" and row["whose"] == "held-out"]
    panels = sorted({(row["category"], row["points"]) for row in rows})
    figure, axes = plt.subplots(
        1, len(panels), figsize=(2.6 * len(panels) + 0.6, 3.5), sharey=True, squeeze=False, layout="constrained"
    )
    colors = {method: f"C{number}" for number, method in enumerate(METHODS)}
    for axis, (category, points) in zip(axes.flat, panels, strict=True):
        axis.plot([0, 1], [0, 1], color="0.6", lw=0.8)
        for row in rows:
            if (row["category"], row["points"]) != (category, points):
                continue
            covered = torch.tensor(row["regions"])
            mean, error = covered.mean(0), covered.std(0) / math.sqrt(len(covered))
            axis.plot(LEVELS, mean, color=colors[row["method"]], label=row["method"], lw=1.4)
            axis.fill_between(LEVELS, mean - 2 * error, mean + 2 * error, color=colors[row["method"]], alpha=0.15, lw=0)
        axis.set_title(f"{category}, {points} points", fontsize="medium")
        axis.set(aspect="equal", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel("level of the region")
        axis.legend(loc="lower right", frameon=False, fontsize="small", handlelength=1.2)
    axes[0, 0].set_ylabel("share of hidden points within")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Complete, score, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+", help="category files")
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--views", nargs="+", choices=VIEWS, default=list(VIEWS))
    parser.add_argument("--points", type=int, nargs="+", default=[30, 100, 300, 1000])
    parser.add_argument("--whose", nargs="+", choices=["held-out", "own"], default=["held-out", "own"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--clouds", type=int, default=50, help="clouds of each kind (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=900.0, help="to train a model, and its completer (%(default)s)"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "rows.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for path in arguments.data:
        completer = prepare(path, arguments.out, arguments.seconds)
        up = torch.tensor(UP[path.stem])
        for view, count, whose, method in settings(arguments):
            key = {"category": path.stem, "view": view, "points": count, "whose": whose, "method": method}
            if any(key.items() <= row.items() for row in rows):
                continue
            # The same clouds, sensors and points for all methods.
            torch.manual_seed(0)
            problem = make_problem(clouds_of(completer, path, whose, arguments.clouds), view, count, up)
            torch.manual_seed(1)
            row = {**key, **run_row(method, completer, problem.first(FEW.get(method, arguments.clouds)))}
            rows.append(row)
            with file.open("a") as stream:
                stream.write(json.dumps(row) + "\n")
            print(
                table([*(other for other in rows if key["category"] == other["category"])]).splitlines()[-1], flush=True
            )
    print(table(rows))
    draw(rows, arguments.out / "coverage.png")


if __name__ == "__main__":
    main()
