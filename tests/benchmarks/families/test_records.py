"""Runs in a file: all come back, and those of another protocol are refused."""

from __future__ import annotations

import dataclasses
import math

import pytest

from benchmarks.families.records import append_run, check_protocols, differences, read_runs


def test_records_survive_the_file(tmp_path, made_run):
    bounds = {"default": -2.0, "gan": None, "nice": -math.inf}
    runs = [made_run(model, bound, [0.9, 0.8]) for model, bound in bounds.items()]
    for run in runs:
        append_run(tmp_path / "runs.jsonl", run)
    assert read_runs(tmp_path / "runs.jsonl") == runs
    assert read_runs(tmp_path / "none.jsonl") == []


def test_a_line_that_was_cut_short_is_taken_out(tmp_path, made_run):
    path = tmp_path / "runs.jsonl"
    for seed in range(2):
        append_run(path, made_run("default", -2.0, [0.9, 0.8], seed=seed))
    whole = path.read_text()
    path.write_text(whole[:-40])
    assert [run.seed for run in read_runs(path)] == [0]
    append_run(path, made_run("default", -2.0, [0.9, 0.8], seed=1))
    assert path.read_text() == whole


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(ValueError, match="line 1 is no run of this comparison"):
        read_runs(tmp_path / "other.jsonl")


def test_runs_of_two_rates_are_two(made_run):
    assert made_run("default", -2.0, [0.9, 0.8]).key != made_run("default", -2.0, [0.9, 0.8], lr=1e-4).key


def test_runs_of_another_protocol_are_refused(made_run, training, train_report):
    protocol = train_report.protocol
    runs = [made_run("default", -2.0, [0.9, 0.9])]
    check_protocols(runs, training, protocol)
    for other, told in [
        ((training, dataclasses.replace(protocol, num_points=64)), "num_points 32, not 64"),
        ((dataclasses.replace(training, particles=3), protocol), "particles 2, not 3"),
    ]:
        with pytest.raises(ValueError, match=told):
            check_protocols(runs, *other)
    # Another length is another table.
    check_protocols(runs, dataclasses.replace(training, max_steps=3, particles=3), protocol)


def test_a_run_of_other_libraries_is_comparable(made_run, training, train_report):
    protocol = dataclasses.replace(train_report.protocol, versions={"torch": "1.0"})
    assert differences(made_run("default", -2.0, [0.9, 0.9]), training, protocol) == {}
