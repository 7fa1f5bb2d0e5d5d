"""`pcflow info`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pyro_pcflow.cli.custom import add_custom
from pyro_pcflow.cli.data_options import add_data_options
from pyro_pcflow.cli.shared import Result, add_json, check_exists

__all__ = ["WITHOUT_TORCH", "add_arguments", "check", "run"]

WITHOUT_TORCH = True
SUFFIXES_OF_MODELS = (".pt",)
# Any of these makes a folder that of a run.
FILES_OF_A_RUN = ("config.toml", "model.pt", "checkpoint.pt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.description = (
        "Say what is in a file of points, a mesh, a folder of them, a run folder, or a model file: counts, extents, "
        "columns with their types and ranges, duplicates and NaN rows, splits and categories; of a model its class, "
        "options and units, and of a run its last scores."
    )
    parser.epilog = "example:\n  pcflow info my_scan.las"
    parser.add_argument("path", type=Path, metavar="FILE", help="a file, a folder, a run folder or a model file")
    add_data_options(parser)
    add_custom(parser.add_argument_group("model"))
    add_json(parser.add_argument_group("output"))


def check(arguments: argparse.Namespace) -> None:
    """See that there is something."""
    check_exists(arguments.path)


def run(arguments: argparse.Namespace) -> Result:
    """Find out what a path holds."""
    path = arguments.path.expanduser()
    if path.is_dir() and any((path / name).is_file() for name in FILES_OF_A_RUN):
        from pyro_pcflow.cli.info_models import describe_run

        return describe_run(path, arguments.custom)
    if path.suffix in SUFFIXES_OF_MODELS and path.is_file():
        from pyro_pcflow.cli.info_models import describe_model_file

        return describe_model_file(path, arguments.custom)
    from pyro_pcflow.cli.info_data import describe_data

    return describe_data(path, arguments)
