"""`pcflow sample`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pyro_pcflow.cli.shared import check_new, draw_clouds, load_model

__all__ = ["add_sample"]

SUFFIXES_OF_SAMPLES = (".npy", ".npz", ".ply", ".xyz")


def add_sample(commands: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    sample = commands.add_parser("sample", help="draw clouds from a trained flow or model")
    sample.add_argument("run", type=Path, help="a run folder, or a model file")
    sample.add_argument(
        "--out",
        type=Path,
        required=True,
        help=f"new file: {', '.join(SUFFIXES_OF_SAMPLES)} (one cloud for the last two)",
    )
    sample.add_argument("--num-clouds", type=int, default=1, help="(%(default)s)")
    sample.add_argument("--num-points", type=int, default=2048, help="points a cloud (%(default)s)")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--device", default="auto")
    sample.set_defaults(command=_sample)


def _sample(arguments: argparse.Namespace) -> None:
    from pyro_pcflow.data import save_clouds
    from pyro_pcflow.training.seeding import seeded

    check_new(arguments.out, SUFFIXES_OF_SAMPLES)
    model = load_model(arguments.run, arguments.device)
    with seeded(arguments.seed, next(model.parameters()).device):
        clouds = draw_clouds(model, arguments.num_clouds, arguments.num_points)
    save_clouds(clouds.cpu(), arguments.out)
    print(f"{arguments.out}: {arguments.num_clouds} clouds of {arguments.num_points} points")
