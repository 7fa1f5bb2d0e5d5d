"""Every format has its reader, and none warns of good files."""

from __future__ import annotations

import warnings

from helpers.cloud_files import put
from pyro_pcflow.data import load_clouds


def test_mixed_folder(tmp_path, corner, writers):
    for name, write in writers.items():
        put(tmp_path, f"{write.__name__}/{name}", write(*corner))
    assert load_clouds(tmp_path, 4).shape == (14, 4, 3)


def test_no_warnings_on_good_files(tmp_path, any_format, corner):
    name, write = any_format
    path = put(tmp_path, name, write(*corner))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_clouds(path, 4)
