"""What two versions need for many points is measured alike."""

from __future__ import annotations

import pytest

from benchmarks import reading
from benchmarks.common.checkouts import HERE


@pytest.mark.slow
def test_a_version_beside_itself(command):
    printed = command(reading, HERE, "--points", 5000, "--rounds", 1).out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed if ": " in line]
    assert [row[0] for row in rows] == [
        f"{file}: {task}"
        for file in ("single.npy", "double.npy", "binary.ply", "text.xyz")
        for task in ("load", "fit a step", "score", "most memory")
    ]
    for name, mine, other, ratio, _ in rows:
        assert mine.endswith("GB" if "memory" in name else "s")
        assert float(other.split()[0]) >= 0
        assert float(ratio) > 0
    # A process with torch in it holds a tenth of a gigabyte and more, and one with 5000 points hardly more than that.
    assert all(0.1 < float(row[1].split()[0]) < 5 for row in rows if "memory" in row[0])
