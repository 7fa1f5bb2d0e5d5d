"""`pcflow convert`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pyro_pcflow.cli.shared import ALL, check_new_file, choose_split, say, whole

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.description = (
        "Write clouds of one size to a new npy file, one by one, so that they need not fit in memory; "
        "pcf.data.MappedClouds opens it without reading it whole."
    )
    parser.add_argument("data", help="a mesh, a cloud file or a folder of them")
    parser.add_argument("--out", type=Path, required=True, help="new file: .npy")
    parser.add_argument("--num-points", type=whole(1), required=True, help="points taken from each cloud")
    parser.add_argument(
        "--split", help=f"train, val, test, or {ALL}: which clouds; needed where there are several splits"
    )
    parser.add_argument("--seed", type=whole(0), default=0)


def run(arguments: argparse.Namespace) -> None:
    """Write clouds of one size to a new npy file."""
    from pyro_pcflow.data import MappedClouds, convert_clouds

    check_new_file(arguments.out, (".npy",))
    # One array of two splits could not be parted again.
    split = choose_split(arguments.data, arguments.split, default=None)
    path = convert_clouds(arguments.data, arguments.out, arguments.num_points, seed=arguments.seed, split=split)
    num_clouds, num_points, dim = MappedClouds(path).shape
    say(f"{path}: {num_clouds} clouds of {num_points} points in {dim} dimensions")
