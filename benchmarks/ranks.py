r"""Whether `complete` finds the posterior of its model: ranks of the truth, on clouds that the model draws.

    python -m benchmarks.ranks body --out runs/ranks                       # 200 clouds of 100 points, over an hour
    python -m benchmarks.ranks body --out runs/smoke --clouds 10

A cloud is drawn from the model and seen from one side, in some number of points, and completed with the exponent 1 of
the likelihood, by chains from the completer. If they sample the posterior, the rank of any quantity of the true latent
among those of the draws is uniform: of the mean and the spread of the shape along each axis, of two coordinates of the
latent, of the densities of latent and points, and of the distance from a random place (Talts, Betancourt, Simpson,
Vehtari and Gelman, Validating Bayesian inference algorithms with simulation-based calibration, 2018). Finished clouds
are kept in the run folder, and not done again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

import pyro_pcflow as pcf
from benchmarks.common.sensors import SOFTNESS
from pyro_pcflow.distributions import PointCloud, one_sided

UP = torch.tensor([0.0, 0.0, 1.0])
# Points that tell of a shape, by the same noise for every latent.
SHAPE_POINTS = 512


def calibrate(model: Any, arguments: argparse.Namespace) -> pcf.infer.Calibration:
    """Ranks of the truth of clouds."""

    def seen(point: Any) -> Any:
        return one_sided(point, UP, softness=SOFTNESS)

    def simulate() -> None:
        pyro.sample("partial", PointCloud(seen(model.point_model()), num_points=arguments.points))

    def infer(data: dict[str, Tensor]) -> dict[str, Tensor]:
        found = pcf.complete(
            model,
            data["partial"],
            arguments.points,
            observe=seen,
            method="hmc",
            temper=1.0,
            num_samples=arguments.draws,
            num_chains=arguments.chains,
            # Temperatures carry chains near the posterior, and with six trajectories there they had not settled.
            warmup_steps=8,
            num_steps=8,
            check=False,
        )
        return {"z": found.latents["z"]}

    def points_of(latents: dict[str, Tensor]) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return model.decode(latents["z"], SHAPE_POINTS).sample()

    return pcf.infer.simulation_based_calibration(
        simulate,
        infer,
        observed=["partial"],
        num_datasets=arguments.clouds,
        quantities={
            "mean": lambda latents, _: points_of(latents).mean(0),
            "spread": lambda latents, _: points_of(latents).std(0),
            "z": lambda latents, _: latents["z"][:2],
        },
        num_processes=arguments.processes,
        out=arguments.out / "ranks.jsonl",
    )


def main() -> None:
    """Simulate, complete, rank, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name of a pretrained model with a completer")
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--points", type=int, default=100, help="of a partial cloud (%(default)s)")
    parser.add_argument("--clouds", type=int, default=200, help="(%(default)s)")
    parser.add_argument("--draws", type=int, default=64, help="of each posterior (%(default)s)")
    parser.add_argument("--chains", type=int, default=256, help="of each cloud (%(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="clouds at once (%(default)s)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = calibrate(pcf.load_pretrained(arguments.model), arguments)
    print(found.table())
    found.plot().savefig(arguments.out / "ranks.png", dpi=150)


if __name__ == "__main__":
    main()
