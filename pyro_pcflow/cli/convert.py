"""`pcflow convert`."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_convert"]


def add_convert(commands: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    convert = commands.add_parser(
        "convert",
        help="gather clouds in one file that need not fit in memory",
        description="Write clouds of one size to a new npy file, one by one, so that they need not fit in memory; "
        "pcf.data.MappedClouds opens it without reading it whole.",
    )
    convert.add_argument("data", help="a mesh, a cloud file or a folder of them")
    convert.add_argument("--out", type=Path, required=True, help="new file: .npy")
    convert.add_argument("--num-points", type=int, required=True, help="points taken from each cloud")
    convert.add_argument("--seed", type=int, default=0)
    convert.set_defaults(command=_convert)


def _convert(arguments: argparse.Namespace) -> None:
    from pyro_pcflow.data import MappedClouds, convert_clouds

    path = convert_clouds(arguments.data, arguments.out, arguments.num_points, seed=arguments.seed)
    num_clouds, num_points, dim = MappedClouds(path).shape
    print(f"{path}: {num_clouds} clouds of {num_points} points in {dim} dimensions")
