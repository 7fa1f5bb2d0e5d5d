"""`pcflow sample`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pyro_pcflow.cli.custom import add_custom
from pyro_pcflow.cli.shared import (
    Result,
    add_device,
    add_json,
    add_seed,
    check_new_file,
    check_parent,
    given,
    model_file,
    whole,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["add_arguments", "check", "run"]

SUFFIXES_OF_SAMPLES = (".npy", ".npz", ".ply", ".xyz")
FORMATS = ("ply", "xyz", "npy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.description = (
        "Draw clouds from a trained flow or model: into one file, or into a new folder of one file per cloud, "
        "cloud-0000.ply and so on. Coordinates are those of the training data, in double precision where they need it."
    )
    parser.epilog = (
        "examples:\n"
        "  pcflow sample runs/scan --num-points 100000 --out scan.ply\n"
        "  pcflow sample runs/kind --num-clouds 50 --out samples/ --format ply"
    )
    parser.add_argument("run", type=Path, help="a run folder, or a model file")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        # A path would forget the stroke at the end.
        required=True,
        help=f"new file: {', '.join(SUFFIXES_OF_SAMPLES)} (one cloud for the last two); or a new folder, by a name "
        "without an ending or with / at its end",
    )
    output.add_argument("--format", choices=FORMATS, help="of the files in a folder (ply)")
    add_json(output)
    drawn = parser.add_argument_group("samples")
    drawn.add_argument("--num-clouds", type=whole(1), default=1, help="(%(default)s)")
    drawn.add_argument("--num-points", type=whole(1), default=2048, help="points per cloud (%(default)s)")
    drawn.add_argument(
        "--label",
        type=whole(0),
        nargs="+",
        help="number of a class, for a model that has classes; of several, each cloud has the next in turn",
    )
    add_seed(drawn)
    model = parser.add_argument_group("model")
    add_custom(model)
    add_device(model)


def check(arguments: argparse.Namespace) -> None:
    """See that the output is new, and that there is a model."""
    out = Path(arguments.out)
    if _is_folder(arguments.out):
        from pyro_pcflow.ops.files import check_new

        check_new(out)
        check_parent(out)
    else:
        check_new_file(out, SUFFIXES_OF_SAMPLES)
        if arguments.format is not None:
            raise ValueError(f"--format is of the files in a folder, but {out} is a file, whose ending says its own")
    model_file(arguments.run)


def run(arguments: argparse.Namespace) -> Result:
    """Draw clouds into a new file, or a new folder."""
    from pyro_pcflow.cli.models import load_model
    from pyro_pcflow.data.saving import check_format, save_clouds
    from pyro_pcflow.ops.random import seeded

    model = load_model(arguments.run, arguments.device, arguments.label, arguments.custom)
    out, ending = Path(arguments.out), given(arguments.format, FORMATS[0])
    if _is_folder(arguments.out):
        check_format(Path(f"{out}.{ending}"), 1, model.point_dim)
    else:
        check_format(out, arguments.num_clouds, model.point_dim)
    with seeded(arguments.seed, model.device):
        clouds = model.sample(arguments.num_clouds, arguments.num_points).cpu()
    if _is_folder(arguments.out):
        _save_each(clouds, out, ending)
    else:
        save_clouds(clouds, out)
    found = {"out": out, "num_clouds": arguments.num_clouds, "num_points": arguments.num_points}
    found["point_dim"] = model.point_dim
    return Result.of(found, "{out}: {num_clouds} clouds of {num_points} points")


def _is_folder(out: str) -> bool:
    return out.endswith("/") or not Path(out).suffix


def _save_each(clouds: Tensor, out: Path, ending: str) -> None:
    """Write one file for each cloud, all of them or none."""
    from pyro_pcflow.data.saving import save_clouds
    from pyro_pcflow.ops.files import new_folder

    digits = max(4, len(str(len(clouds) - 1)))
    with new_folder(out) as folder:
        for number, cloud in enumerate(clouds):
            save_clouds(cloud.unsqueeze(0), folder / f"cloud-{number:0{digits}}.{ending}")
