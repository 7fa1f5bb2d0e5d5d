"""Options of every command that reads clouds: which files of a folder, which columns and which rows."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pyro_pcflow.cli.shared import number

if TYPE_CHECKING:
    from pyro_pcflow.data.drawing import Selection
    from pyro_pcflow.data.listing import FolderOptions

__all__ = ["LeftOut", "add_data_options", "folder_options_of", "loading_options", "selection_of"]


def add_data_options(parser: argparse.ArgumentParser, features: bool = True) -> None:
    """Add the options, in a group of their own; without `features`, none for what a flow alone is over."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--columns",
        metavar="NAMES",
        help="which columns of a table are coordinates, by name or place: x,y,z or 2,3,4 (what the names say)",
    )
    if features:
        group.add_argument("--features", metavar="NAMES", help="further columns that the flow is over: intensity,r,g,b")
    else:
        parser.set_defaults(features=None)
    group.add_argument(
        "--refuse-nan", action="store_true", help="end with an error at a NaN point (they are left out and counted)"
    )
    group.add_argument(
        "--outliers",
        type=number("a positive number", lambda value: value > 0),
        metavar="DEVIATIONS",
        dest="stray_deviations",
        help="leave out points so many standard deviations farther from their neighbours than is usual, such as 5",
    )
    group.add_argument(
        "--include", nargs="+", metavar="PATTERN", help="only files of such names: '*.ply' 'north/*.las'"
    )
    group.add_argument("--no-subfolders", action="store_true", help="leave folders in the folder alone")
    group.add_argument("--follow-links", action="store_true", help="follow links to folders")


def selection_of(arguments: argparse.Namespace) -> Selection:
    """What is taken of each cloud."""
    from pyro_pcflow.data.drawing import Selection

    return Selection(
        arguments.columns, arguments.features, not arguments.refuse_nan, outliers=arguments.stray_deviations
    )


def folder_options_of(arguments: argparse.Namespace) -> FolderOptions:
    """Which files of a folder are meant."""
    from pyro_pcflow.data.listing import FolderOptions

    return FolderOptions.of(arguments.include, not arguments.no_subfolders, arguments.follow_links)


def loading_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The same as keywords of `load_clouds` and `convert_clouds`."""
    selection, options = selection_of(arguments), folder_options_of(arguments)
    return {
        "columns": selection.columns,
        "features": selection.features,
        "drop_nan": selection.drop_nan,
        "outliers": selection.outliers,
        "include": options.include,
        "subfolders": options.subfolders,
        "follow_links": options.follow_links,
    }


class LeftOut:
    """How many points were left out of how many clouds, told in one line at the end."""

    def __init__(self) -> None:
        self._dropped = self._strays = self._clouds = 0

    def add(self, dropped: int, strays: int) -> None:
        """Count those of a cloud."""
        self._dropped += dropped
        self._strays += strays
        self._clouds += bool(dropped or strays)

    def __str__(self) -> str:
        reasons = [f"{self._dropped} NaN or infinite"] * bool(self._dropped) + [f"{self._strays} astray"] * bool(
            self._strays
        )
        clouds = f"{self._clouds} cloud{'s' if self._clouds > 1 else ''}"
        return f"points left out of {clouds}: {', '.join(reasons)}" if reasons else ""
