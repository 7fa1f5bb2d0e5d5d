"""Options of the command line as keywords of the loaders."""

from __future__ import annotations

import inspect

from pyro_pcflow.cli import make_parser
from pyro_pcflow.cli.data_options import loading_options
from pyro_pcflow.data import convert_clouds, load_clouds


def options(*words):
    command = ["convert", "data", "--num-points", "9", "--out", "a.npy"]
    return loading_options(make_parser(command).parse_args([*command, *words]))


def test_nothing_given():
    assert options() == {
        "columns": None,
        "features": None,
        "drop_nan": True,
        "outliers": None,
        "include": (),
        "subfolders": True,
        "follow_links": False,
    }
    for function in (load_clouds, convert_clouds):
        assert options().keys() <= inspect.signature(function).parameters.keys()


def test_each_given():
    words = [
        "--columns",
        "E,N,H",
        "--features",
        "r,g",
        "--refuse-nan",
        "--outliers",
        "5",
        "--include",
        "*.ply",
        "*.las",
    ]
    found = options(*words, "--no-subfolders", "--follow-links")
    assert found == {
        "columns": "E,N,H",
        "features": "r,g",
        "drop_nan": False,
        "outliers": 5.0,
        "include": ("*.ply", "*.las"),
        "subfolders": False,
        "follow_links": True,
    }
