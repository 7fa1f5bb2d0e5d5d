"""`pcflow convert`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pyro_pcflow.cli.data_options import add_data_options, folder_options_of, loading_options
from pyro_pcflow.cli.shared import (
    ALL,
    Result,
    add_json,
    add_seed,
    check_exists,
    check_new_file,
    choose_split,
    whole,
)

__all__ = ["add_arguments", "check", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.description = (
        "Write clouds of one size to a new npy file, one by one, so that they need not fit in memory; "
        "pcf.data.MappedClouds opens it without reading it whole."
    )
    parser.epilog = "example:\n  pcflow convert meshes/ --out meshes.npy --num-points 2048"
    parser.add_argument("data", help="a mesh, a cloud file or a folder of them")
    add_data_options(parser)
    drawn = parser.add_argument_group("points")
    drawn.add_argument("--num-points", type=whole(1), required=True, help="points taken from each cloud")
    drawn.add_argument(
        "--split", help=f"train, val, test, or {ALL}: which clouds; needed where there are several splits"
    )
    add_seed(drawn)
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, required=True, help="new file: .npy")
    output.add_argument(
        "--dtype", choices=("float32", "float64"), help="of the numbers in the file (what the first cloud needs)"
    )
    add_json(output)


def check(arguments: argparse.Namespace) -> None:
    """See that the output is new, and that there is data."""
    check_new_file(arguments.out, (".npy",))
    check_exists(arguments.data)


def run(arguments: argparse.Namespace) -> Result:
    """Write clouds of one size to a new npy file."""
    from pyro_pcflow.data import MappedClouds, convert_clouds

    # One array of two splits could not be parted again.
    split = choose_split(arguments.data, arguments.split, default=None, options=folder_options_of(arguments))
    options = {**loading_options(arguments), "dtype": arguments.dtype}
    places = (arguments.data, arguments.out, arguments.num_points)
    path = convert_clouds(*places, **options, seed=arguments.seed, split=split)
    num_clouds, num_points, dim = MappedClouds(path).shape
    found = {"out": path, "num_clouds": num_clouds, "num_points": num_points, "point_dim": dim}
    return Result.of(found, "{out}: {num_clouds} clouds of {num_points} points in {point_dim} dimensions")
