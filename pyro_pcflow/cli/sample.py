"""`pcflow sample`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pyro_pcflow.cli.shared import check_new_file, say, whole

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
    sample.add_argument("--num-clouds", type=whole(1), default=1, help="(%(default)s)")
    sample.add_argument("--num-points", type=whole(1), default=2048, help="points per cloud (%(default)s)")
    sample.add_argument(
        "--label",
        type=whole(0),
        nargs="+",
        help="number of a class, for a model that has classes; of several, each cloud has the next in turn",
    )
    sample.add_argument("--seed", type=whole(0), default=0)
    sample.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (%(default)s)")
    sample.set_defaults(command=_sample)


def _sample(arguments: argparse.Namespace) -> None:
    from pyro_pcflow.cli.models import load_model
    from pyro_pcflow.data.saving import check_format, save_clouds
    from pyro_pcflow.training.seeding import seeded

    check_new_file(arguments.out, SUFFIXES_OF_SAMPLES)
    model = load_model(arguments.run, arguments.device, arguments.label)
    check_format(arguments.out, arguments.num_clouds, model.point_dim)
    with seeded(arguments.seed, model.device):
        clouds = model.sample(arguments.num_clouds, arguments.num_points)
    save_clouds(clouds.cpu(), arguments.out)
    say(f"{arguments.out}: {arguments.num_clouds} clouds of {arguments.num_points} points")
