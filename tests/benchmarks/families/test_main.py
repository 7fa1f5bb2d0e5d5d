"""The command: all rows, what is done is not done again, and a file of another protocol is refused."""

from __future__ import annotations

import re

import pytest

from benchmarks.families import __main__ as families
from benchmarks.families.members import FAMILIES
from benchmarks.families.records import read_runs

TINY = [
    "--steps",
    "2",
    "--points",
    "32",
    "--scored-points",
    "48",
    "--particles",
    "2",
    "--draws",
    "2",
    "--device",
    "cpu",
]


def test_the_table_has_all_rows_and_what_is_done_is_skipped(small_file, small_families, tmp_path, command):
    out = tmp_path / "new" / "runs.jsonl"
    arguments = [small_file, "--models", "default", "nice", "gan", "--seeds", "0", "1", *TINY, "--out", out]
    first = command(families, *arguments)
    rows = [line for line in first.out.splitlines() if line.startswith("| ")][2:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == ["default", "nice", "gan", "*train split*"]
    assert len({row.count("|") for row in first.out.splitlines() if row.startswith("|")}) == 1
    assert rows[2].split(" | ")[2] == "none"
    assert re.match(r"\**-?\d+\.\d{3} \(-?\d+\.\d{3} to -?\d+\.\d{3}\)", rows[0].split(" | ")[2])
    assert len(first.err.splitlines()) == 6

    lines = out.read_text().splitlines(keepends=True)
    # Stopped in the middle of the fourth line.
    out.write_text("".join(lines[:3]) + lines[3][:40])
    again = command(families, *arguments)
    assert len(again.err.splitlines()) == 3
    assert len(out.read_text().splitlines()) == 6
    third = command(families, *arguments)
    assert third.err == ""
    assert third.out == again.out
    without_times = [re.sub(r"\| [^|]*(\| [^|]*){4}\|$", "", line) for line in (first.out + again.out).splitlines()]
    half = len(without_times) // 2
    rows = [line for line in without_times[:half] if line.startswith("| ")]
    assert rows == [line for line in without_times[half:] if line.startswith("| ")]


def test_a_file_of_another_protocol_is_refused(small_file, small_families, tmp_path, command, capsys):
    out = tmp_path / "runs.jsonl"
    arguments = [small_file, "--models", "gan", "--seeds", "0", *TINY, "--out", out]
    command(families, *arguments)
    with pytest.raises(SystemExit):
        command(families, *arguments, "--points", "16")
    assert "num_points 32, not 16" in capsys.readouterr().err
    # Another learning rate is another run, not another protocol.
    command(families, *arguments, "--lr", "1e-4")
    assert [run.lr for run in read_runs(out) if run.model == "gan"] == [FAMILIES["gan"].lr, 1e-4]
