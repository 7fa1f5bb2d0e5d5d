"""Runs of the comparison of model families, and the file that keeps them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pyro_pcflow as pcf

Key: TypeAlias = tuple[Any, ...]
# Steps on each cloud's own posterior, for the bound that an encoder does not limit.
REFINE_STEPS = 3


@dataclass(frozen=True)
class Training:
    """How the models of one table are trained, and how their densities are scored.

    Attributes:
        seconds: training time of a run, or None.
        max_steps: training steps of a run, or None.
        noise: standard deviation of what thickens the points whose density is learned and scored.
        scored_points: points of a cloud whose density is scored.
        particles: of the importance-weighted bound.
        device: where models are trained and sampled.
    """

    seconds: float | None
    max_steps: int | None
    noise: float
    scored_points: int
    particles: int
    device: str


@dataclass(frozen=True)
class ModelRun:
    """A training run and its scores.

    Attributes:
        model: one of `FAMILIES`.
        seed: of the run.
        lr: its learning rate.
        training: what it has in common with others.
        report: of `pcf.metrics.evaluate` on its samples, with its bound if it has one.
        trained_seconds: wall time of the training.
        steps: of the training.
        parameters: numbers that were trained.
        sampling_seconds: to sample one cloud, on the mean over all draws.
        threads: of torch.
        failures: what went wrong, in words; nothing for a run that did not fail.
        refined_nats_per_point: its bound once the posterior of each cloud is refined; None if it has none to refine.
    """

    model: str
    seed: int
    lr: float
    training: Training
    report: pcf.metrics.Report
    trained_seconds: float
    steps: int
    parameters: int
    sampling_seconds: float
    threads: int
    failures: list[str]
    refined_nats_per_point: float | None = None

    @property
    def key(self) -> Key:
        """What no two runs of a file share."""
        training = self.training
        return (self.report.protocol.data, self.model, self.seed, training.seconds, training.max_steps, self.lr)

    @property
    def nats_per_point(self) -> float | None:
        """The bound, which is not finite where training failed; None for a family without a density."""
        return None if self.report.likelihood is None else self.report.likelihood.nats_per_point

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        fields = {name: value for name, value in vars(self).items() if name not in ("training", "report")}
        return fields | {"training": asdict(self.training), "report": json.loads(self.report.to_json())}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> ModelRun:
        """Invert `to_dict`."""
        report = pcf.metrics.Report.from_json(json.dumps(fields["report"]))
        return cls(**{**fields, "training": Training(**fields["training"]), "report": report})


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
            runs.append(ModelRun.from_dict(json.loads(line)))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}, line {number} is no run of this comparison ({error}): give another") from error
    return runs


def append_run(path: Path, run: ModelRun) -> None:
    """Add a run to a file, a JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(run.to_dict(), allow_nan=False) + "\n")


def differences(run: ModelRun, training: Training, protocol: pcf.metrics.Protocol) -> dict[str, tuple[Any, Any]]:
    """In what a run differs from the others of a table, with both values, whatever libraries it was made with."""
    found = run.report.protocol.differences(protocol)
    theirs, ours = asdict(run.training), asdict(training)
    found |= {name: (theirs[name], ours[name]) for name in ours if theirs[name] != ours[name]}
    return {name: pair for name, pair in found.items() if name != "versions"}


def check_protocols(runs: Sequence[ModelRun], training: Training, protocol: pcf.metrics.Protocol) -> None:
    """Raise unless the runs that share data and length with those of a table share everything with them.

    Raises:
        ValueError: that names what differs.
    """
    for run in runs:
        different = differences(run, training, protocol)
        if different and not {"data", "seconds", "max_steps"} & different.keys():
            told = "; ".join(f"{name} {theirs!r}, not {ours!r}" for name, (theirs, ours) in different.items())
            raise ValueError(
                f"the file has runs of {protocol.data} with another protocol ({told}), which belong into another "
                "table: give another --out"
            )
