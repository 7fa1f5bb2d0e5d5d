"""Who runs when, and at which learning rate."""

from __future__ import annotations

import json
from dataclasses import dataclass

from benchmarks.common.racing import race, reporter


@dataclass(frozen=True)
class Run:
    contender: str
    lr: float
    seed: int
    validation: float


def test_contenders_take_turns_at_their_best_rates(tmp_path, capsys):
    liked = {"a": 0.1, "b": 0.2}

    def train(contender, lr, seed):
        return Run(contender, lr, seed, validation=-abs(lr - liked[contender]) - seed)

    runs = race(
        train, dict.fromkeys(liked, (0.1, 0.2)), 3, reporter(lambda run: f"{run.contender} ran", tmp_path / "log")
    )
    told = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [(line["contender"], line["lr"], line["seed"]) for line in told] == [
        *(("a", 0.1, 0), ("b", 0.1, 0), ("a", 0.2, 0), ("b", 0.2, 0)),
        *(("a", 0.1, 1), ("b", 0.2, 1), ("a", 0.1, 2), ("b", 0.2, 2)),
    ]
    assert sorted((run.contender, run.lr, run.seed) for run in runs) == [
        (contender, liked[contender], seed) for contender in "ab" for seed in range(3)
    ]
    assert capsys.readouterr().err.count("ran") == 8
