"""Many clouds at equal seconds: our affine couplings in a VAE, Pyro's own in the same, and a forty-line prototype.

    python -m benchmarks.vae body.npz headwear.npz                      # the table of docs/benchmarks.md
    python -m benchmarks.vae body.npz --contenders ours prototype --seconds 240 --seeds 1 --rates 2e-3 8e-3
    python -m benchmarks.vae body.npz --seconds 2 --seeds 1             # a smoke run

Clouds of the train split, in units of their standard deviation and thickened by Gaussian noise of 0.02 of it, are
trained on with the same loop; the evidence lower bound of the test split, in nats per point, is what counts. Pyro's VAE
has our encoder, and couplings so wide that it has as many parameters. Each takes the best of the learning rates by the
bound of the val split under the first seed. Runs alternate, so that the load of the machine is the same for all.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import pyro_pcflow as pcf
from benchmarks.common.categories import Category, load_category
from benchmarks.common.constants import NOISE_PER_DEVIATION
from benchmarks.common.racing import race, reporter
from benchmarks.common.scores import count_parameters, evidence_lower_bound
from benchmarks.rivals.pyro_vae import affine_vae, matched_in_size

LEARNING_RATES = (2e-3, 4e-3, 8e-3)


@dataclass(frozen=True)
class Run:
    """One training run and its scores."""

    category: str
    contender: str
    seed: int
    lr: float
    steps: int
    parameters: int
    validation: float
    test: float
    kl: float
    diverged_at: int | None


def prototype() -> pcf.PointCloudVAE:
    """Fourteen FiLM couplings of width 64, a standard normal prior over 32 numbers, a PointNet as encoder."""
    return pcf.PointCloudVAE(
        3,
        32,
        prior="normal",
        decoder={
            "num_couplings": 14,
            "hidden_dims": [64, 64],
            "masks": "alternate",
            "conditioning": "film",
            "activation": "silu",
            "num_frequencies": 0,
            "max_log_scale": 1.0,
            "max_total_log_scale": 14.0,
        },
        encoder={"point_dims": [64, 128, 256], "hidden_dims": [256], "num_frequencies": 0},
    )


CONTENDERS: dict[str, Callable[[], nn.Module]] = {
    "pyro": lambda: matched_in_size(affine_vae()),
    "prototype": prototype,
    "ours": affine_vae,
}
# How a step of each is made; the prototype as it was first written.
OPTIONS: dict[str, dict[str, Any]] = {
    "pyro": {},
    "prototype": {"batch_size": 32, "sampling": pcf.training.CloudSampling(target_points=256, encoder_points=256)},
    "ours": {},
}


def train(category: Category, contender: str, lr: float, seed: int, seconds: float) -> Run:
    """Train one contender with the loop that users have, and score it."""
    torch.manual_seed(seed)
    module = CONTENDERS[contender]()
    diverged_at = None
    quiet = pcf.training.Logging(progress=False)
    options: dict[str, Any] = {"noise": NOISE_PER_DEVIATION, "seed": seed, "logging": quiet, **OPTIONS[contender]}
    try:
        result = pcf.fit(module, category.train, held_out=0, max_seconds=seconds, lr=lr, **options)
        steps = result.steps
    except pcf.training.TrainingDivergedError as error:
        steps = diverged_at = error.step
    validation, test = (
        evidence_lower_bound(module, clouds, NOISE_PER_DEVIATION) for clouds in (category.validation, category.test)
    )
    return Run(
        category.name,
        contender,
        seed,
        lr,
        steps,
        count_parameters(module),
        validation.get("nats_per_point", -math.inf),
        test.get("nats_per_point", -math.inf),
        test.get("kl", math.nan),
        diverged_at,
    )


def describe(run: Run) -> str:
    """One run as a line of text."""
    return (
        f"{run.category} {run.contender} seed {run.seed} lr {run.lr:g}: {_nats(run.test)} nats per point after "
        f"{run.steps} steps{'' if run.diverged_at is None else ', diverged'}"
    )


def _nats(value: float) -> str:
    """Three decimals, or the order of magnitude of what has blown up."""
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.1e}"


def rows(category: str, contenders: list[str], runs: list[Run]) -> list[str]:
    """Lines of the Markdown table."""
    lines = []
    for contender in contenders:
        mine = [run for run in runs if run.contender == contender]
        scores = [run.test for run in mine]
        gains = [other.test for other in runs if other.contender == contenders[-1]]
        ahead = [own - score for own, score in zip(gains, scores, strict=True)]
        cells = [
            category,
            contender,
            f"{_nats(statistics.mean(scores))} ({_nats(min(scores))} to {_nats(max(scores))})",
            "" if contender == contenders[-1] else f"{_nats(statistics.mean(ahead))} (least {_nats(min(ahead))})",
            f"{statistics.mean(run.kl for run in mine):.1f}",
            f"{mine[0].parameters:,}",
            f"{statistics.mean(run.steps for run in mine):.0f}",
            f"{mine[0].lr:g}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


HEADER = (
    "| category | model | held-out bound, nats per point | ours ahead | KL, nats per cloud | parameters | steps "
    "| rate |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |"
)


def main() -> None:
    """Run the comparison and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+", help="category files with points and split")
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=["pyro", "ours"])
    parser.add_argument("--seconds", type=float, default=90.0, help="training time of each run (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each contender that enter the table")
    parser.add_argument("--rates", type=float, nargs="+", default=LEARNING_RATES, help="learning rates (%(default)s)")
    parser.add_argument("--log", type=Path, help="append every run to this file, a JSON object per line")
    arguments = parser.parse_args()
    contenders = sorted(arguments.contenders, key=list(CONTENDERS).index)

    report = reporter(describe, arguments.log)
    lines = []
    for path in arguments.data:
        category = load_category(path)
        run = partial(train, category, seconds=arguments.seconds)
        runs = race(run, dict.fromkeys(contenders, arguments.rates), arguments.seeds, report)
        lines += rows(category.name, contenders, runs)
    print(HEADER, *lines, sep="\n")


if __name__ == "__main__":
    main()
