"""`pcflow convert`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pyro_pcflow.cli.shared import ALL, check_new_file, choose_split, say, whole

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
    convert.add_argument("--num-points", type=whole(1), required=True, help="points taken from each cloud")
    convert.add_argument(
        "--split", help=f"train, val, test, or {ALL}: which clouds; needed where there are several splits"
    )
    convert.add_argument("--seed", type=whole(0), default=0)
    convert.set_defaults(command=_convert)


def _convert(arguments: argparse.Namespace) -> None:
    from pyro_pcflow.data import MappedClouds, convert_clouds

    check_new_file(arguments.out, (".npy",))
    # One array of two splits could not be parted again.
    split = choose_split(arguments.data, arguments.split, default=None)
    path = convert_clouds(arguments.data, arguments.out, arguments.num_points, seed=arguments.seed, split=split)
    num_clouds, num_points, dim = MappedClouds(path).shape
    say(f"{path}: {num_clouds} clouds of {num_points} points in {dim} dimensions")
