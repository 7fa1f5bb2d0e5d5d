"""Two versions take turns, and are compared by ratios of runs side by side."""

from __future__ import annotations

import pytest

from benchmarks import versions
from benchmarks.common.checkouts import HERE


def test_ratios_are_of_runs_side_by_side(command, monkeypatch, tmp_path):
    (tmp_path / "pyro_pcflow").mkdir()
    (tmp_path / "pyro_pcflow" / "__init__.py").touch()
    order = []

    def measure(checkout):
        order.append(checkout == HERE)
        # The machine slows down by half after the first round, for both.
        return {"log_prob": (1.0 if order[-1] else 2.0) * (1.0 if len(order) <= 4 else 1.5)}

    monkeypatch.setattr(versions, "measure", measure)
    printed = command(versions, tmp_path, "--rounds", 2).out.splitlines()
    assert printed[-1].endswith("| 0.500 | 0.500 to 0.500 |")
    assert order == [True, False, True, False, False, True]


def test_a_folder_without_the_package_is_refused(command, tmp_path, capsys):
    with pytest.raises(SystemExit):
        command(versions, tmp_path)
    assert "holds no folder pyro_pcflow" in capsys.readouterr().err
