"""The command prints its table."""

from __future__ import annotations

import pytest

from benchmarks import conditioning


@pytest.mark.slow
def test_the_table(command, write_category):
    printed = command(conditioning, write_category(6, 0, 300), "--seconds", 0.5, "--seeds", 1).out
    assert len(printed.splitlines()) == 5
