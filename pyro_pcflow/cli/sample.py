"""`pcflow sample`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pyro_pcflow.cli.custom import add_custom
from pyro_pcflow.cli.shared import check_new_file, say, whole

__all__ = ["add_arguments", "run"]

SUFFIXES_OF_SAMPLES = (".npy", ".npz", ".ply", ".xyz")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("run", type=Path, help="a run folder, or a model file")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help=f"new file: {', '.join(SUFFIXES_OF_SAMPLES)} (one cloud for the last two)",
    )
    parser.add_argument("--num-clouds", type=whole(1), default=1, help="(%(default)s)")
    parser.add_argument("--num-points", type=whole(1), default=2048, help="points per cloud (%(default)s)")
    parser.add_argument(
        "--label",
        type=whole(0),
        nargs="+",
        help="number of a class, for a model that has classes; of several, each cloud has the next in turn",
    )
    add_custom(parser)
    parser.add_argument("--seed", type=whole(0), default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (%(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Draw clouds into a new file."""
    from pyro_pcflow.cli.models import load_model
    from pyro_pcflow.data.saving import check_format, save_clouds
    from pyro_pcflow.ops.random import seeded

    check_new_file(arguments.out, SUFFIXES_OF_SAMPLES)
    model = load_model(arguments.run, arguments.device, arguments.label, arguments.custom)
    check_format(arguments.out, arguments.num_clouds, model.point_dim)
    with seeded(arguments.seed, model.device):
        clouds = model.sample(arguments.num_clouds, arguments.num_points)
    save_clouds(clouds.cpu(), arguments.out)
    say(f"{arguments.out}: {arguments.num_clouds} clouds of {arguments.num_points} points")
