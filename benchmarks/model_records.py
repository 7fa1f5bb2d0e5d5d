"""Runs of the comparison of model families, and the file that keeps them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

# The name of the row that compares train clouds with the evaluated ones.
TRAIN_ROW = "train split"

Key: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True)
class Protocol:
    """What all runs of one table have in common.

    Attributes:
        data: name of the category.
        sha256: of its three splits.
        split: what is evaluated on, `test` or `val`.
        seconds: training time of a run, or None.
        max_steps: training steps of a run, or None.
        num_points: points of a sampled cloud and of a reference.
        scored_points: points of a cloud whose density is scored.
        particles: of the importance-weighted bound.
        draws: sets of samples, each with as many clouds as there are references.
        noise: standard deviation of what thickens the points whose density is learned and scored.
        units: of coordinates and of densities.
        device: where models are trained and sampled.
    """

    data: str
    sha256: str
    split: str
    seconds: float | None
    max_steps: int | None
    num_points: int
    scored_points: int
    particles: int
    draws: int
    noise: float
    units: str
    device: str


@dataclass(frozen=True)
class ModelRun:
    """A training run and its scores.

    Attributes:
        model: one of `FAMILIES`, or `TRAIN_ROW`.
        seed: of the run.
        lr: its learning rate; None for `TRAIN_ROW`.
        protocol: what it has in common with others.
        nats_per_point: the bound; None where the family has none, or it is not finite, which is then a failure.
        scores: values of every draw by name; only those that are finite.
        trained_seconds: wall time of the training.
        steps: of the training.
        parameters: numbers that were trained.
        sampling_seconds: to sample one cloud, on the mean over all draws.
        failures: what went wrong, in words; nothing for a run that did not fail.
        environment: versions of what ran.
    """

    model: str
    seed: int
    lr: float | None
    protocol: Protocol
    nats_per_point: float | None
    scores: dict[str, list[float]]
    trained_seconds: float
    steps: int
    parameters: int
    sampling_seconds: float
    failures: list[str]
    environment: dict[str, Any]

    @property
    def key(self) -> Key:
        """What no two runs of a file share."""
        protocol = self.protocol
        return (protocol.data, self.model, self.seed, protocol.seconds, protocol.max_steps, self.lr)


def read_runs(path: Path) -> list[ModelRun]:
    """The runs of a file. A last line that was cut short by an interruption is taken out of the file.

    Raises:
        ValueError: if another line is no run.
    """
    if not path.exists():
        return []
    text = path.read_text()
    whole, _, rest = text.rpartition("\n")
    if rest:
        path.write_text(whole + "\n" if whole else "")
    runs = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            fields = json.loads(line)
            runs.append(ModelRun(**{**fields, "protocol": Protocol(**fields["protocol"])}))
        except (json.JSONDecodeError, TypeError, KeyError) as error:
            raise ValueError(f"{path}, line {number} is no run of this comparison ({error}): give another") from error
    return runs


def append_run(path: Path, run: ModelRun) -> None:
    """Add a run to a file, a JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(asdict(run), allow_nan=False) + "\n")


def check_protocols(runs: Sequence[ModelRun], protocol: Protocol) -> None:
    """Raise unless the runs that share data and length with a protocol share all of it.

    Raises:
        ValueError: that names what differs.
    """
    wanted = asdict(protocol)
    for run in runs:
        had = asdict(run.protocol)
        if all(had[name] == wanted[name] for name in ("data", "seconds", "max_steps")):
            different = [f"{name} {had[name]!r}, not {wanted[name]!r}" for name in wanted if had[name] != wanted[name]]
            if different:
                raise ValueError(
                    f"the file has runs of {protocol.data} with another protocol ({'; '.join(different)}), which "
                    "belong into another table: give another --out"
                )
