"""A finished run that several modules look at."""

from __future__ import annotations

import pytest

from helpers.resumable_run import run


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Its folder, its module and its result."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    module, result = run(out, resume=False)
    return out, module, result
