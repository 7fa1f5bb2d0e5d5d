"""The table: the best of each column, whoever it is, and what was not finite."""

from __future__ import annotations

import dataclasses
import math

from benchmarks.families.table import table


def test_the_best_of_each_column_is_marked_whoever_it_is(made_run, training, train_report):
    runs = [
        made_run("default", -2.0, [0.9, 0.8], halves=(0.9, 0.8), refined_nats_per_point=-1.3),
        made_run("default", -1.0, [0.9, 0.8], seed=1, halves=(0.9, 0.8), refined_nats_per_point=-0.9),
        made_run("pyro", -1.6, [0.5, 0.5], halves=(1.0, 0.0)),
        made_run("gan", None, [0.6, 0.7], parameters=9, failures=["collapsed"]),
    ]
    text = table(runs, training, train_report)
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in text if line.startswith("| ")}
    bounds = ["**-1.500 (-2.000 to -1.000)**", "**-1.100 (-1.300 to -0.900)**"]
    assert rows["default"][1:5] == ["**0 of 2**", *bounds, "85.0 ± 5.8"]
    assert rows["pyro"][1:5] == ["**0 of 1**", "-1.600", "none", "50.0 ± 0.0"]
    assert rows["gan"][1:5] == ["1 of 1", "none", "none", "**65.0 ± 7.1**"]
    assert "A rival is the best in: 1-NNA-CD (gan), parameters (gan)." in text
    assert "- gan: seed 0 collapsed." in text
    assert not any("A rival is the best" in line for line in table(runs[:2], training, train_report))


def test_the_best_spread_is_the_nearest_to_that_of_references(made_run, training, train_report):
    spreads = {"default": 0.2, "pyro": 1.3, "gan": 1.9}
    runs = [made_run(name, -2.0, [0.6], scores={"spread-cd": (spread,)}) for name, spread in spreads.items()]
    text = "\n".join(table(runs, training, train_report))
    assert "**1.30**" in text
    assert not any(f"**{other}" in text for other in ("0.2", "1.9"))


def test_where_all_are_alike_none_is_marked(made_run, training, train_report):
    runs = [made_run(name, -2.0, [0.9], halves=(0.8, 1.0)) for name in ("default", "pyro")]
    assert not any("**" in line for line in table(runs, training, train_report))
    assert "No rival is the best of a column." in table(runs, training, train_report)


def test_what_is_not_finite_is_told_and_never_the_best(made_run, training, train_report):
    failed = made_run("nice", -math.inf, [1.0, 1.0], scores={"mmd-cd": (math.inf, 0.5)}, failures=["diverged"])
    text = "\n".join(table([failed], training, train_report))
    assert "| 1 of 1 | not finite |" in text
    assert "**not finite**" not in text
    good = made_run("nice", -208.333, [0.8, 0.8], seed=1, failures=["collapsed"])
    text = "\n".join(table([failed, good, made_run("pyro", -2.0, [0.6, 0.6])], training, train_report))
    assert "| nice | 2 of 2 | -208.333 |" in text
    assert "- nice: seed 0 diverged; seed 1 collapsed." in text


def test_runs_of_another_protocol_stay_out_of_the_table(made_run, training, train_report):
    other = dataclasses.replace(training, noise=1.0)
    runs = [made_run("default", -2.0, [0.9]), made_run("gan", None, [0.6], training=other)]
    text = table(runs, training, train_report)
    assert any(line.startswith("| default") for line in text)
    assert not any(line.startswith("| gan") for line in text)
