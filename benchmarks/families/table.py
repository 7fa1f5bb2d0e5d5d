"""The table of the comparison of model families, in Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyro_pcflow as pcf
from benchmarks.families.members import FAMILIES
from benchmarks.families.records import REFINE_STEPS, ModelRun, Training, differences


@dataclass(frozen=True)
class TrainSplit:
    """Train clouds in the place of the samples of a run."""

    report: pcf.metrics.Report


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        title: what stands above it.
        values: what runs of one model have of it; nothing where there is none.
        text: from these values to a cell.
        badness: what of a mean should be small, for a column whose best is marked.
        judged: the values whose means are judged instead, the worst of them; by default those of the column.
        in_train_row: whether the train split has it.
    """

    title: str
    values: Callable[[Sequence[Any]], list[float]]
    text: Callable[[list[float]], str]
    badness: Callable[[float], float] | None = None
    judged: tuple[Callable[[Sequence[Any]], list[float]], ...] = ()
    in_train_row: bool = False

    def mark_of(self, runs: Sequence[ModelRun]) -> float:
        """How bad these runs are; infinite where there is nothing to compare."""
        parts = [values(runs) for values in self.judged or (self.values,)]
        if self.badness is None or not all(parts):
            return math.inf
        return max(self.badness(statistics.mean(part)) for part in parts)


def _score(key: str) -> Callable[[Sequence[ModelRun | TrainSplit]], list[float]]:
    """Of all draws; nothing of a run with one that is not finite."""

    def values(runs: Sequence[ModelRun | TrainSplit]) -> list[float]:
        draws = [run.report.draws[key] for run in runs]
        return [value for own in draws if all(map(math.isfinite, own)) for value in own]

    return values


def _nats(runs: Sequence[ModelRun]) -> list[float]:
    return [nats for run in runs if (nats := run.nats_per_point) is not None and math.isfinite(nats)]


def _refined_nats(runs: Sequence[ModelRun]) -> list[float]:
    return [nats for run in runs if (nats := run.refined_nats_per_point) is not None and math.isfinite(nats)]


def _milliseconds(runs: Sequence[ModelRun]) -> list[float]:
    return [1000 * run.sampling_seconds for run in runs]


def _range(values: list[float]) -> str:
    def short(value: float) -> str:
        return f"{value:.3f}" if abs(value) < 1000 else f"{value:.1e}"

    mean = short(statistics.mean(values))
    return mean if len(values) == 1 else f"{mean} ({short(min(values))} to {short(max(values))})"


def _spread(digits: int, factor: float = 1.0) -> Callable[[list[float]], str]:
    def text(values: list[float]) -> str:
        mean = f"{factor * statistics.mean(values):.{digits}f}"
        return mean if len(values) == 1 else f"{mean} ± {factor * statistics.stdev(values):.{digits}f}"

    return text


def _mean(pattern: str) -> Callable[[list[float]], str]:
    return lambda values: pattern.format(statistics.mean(values))


def _halves(runs: Sequence[ModelRun | TrainSplit]) -> list[float]:
    parts = [values(runs) for values in HALVES]
    return [statistics.mean(part) for part in parts] if all(parts) else []


def _two(values: list[float]) -> str:
    return ", ".join(f"{100 * value:.0f}" for value in values)


# A mean of 50% hides a half of 100% and one of 0%.
HALVES = (_score("1-nna-cd-ref"), _score("1-nna-cd-smp"))
COLUMNS = (
    Column("held-out bound, nats per point", _nats, _range, lambda x: -x),
    Column("refined bound", _refined_nats, _range, lambda x: -x),
    Column("1-NNA-CD, %", _score("1-nna-cd"), _spread(1, 100), lambda x: abs(x - 0.5), HALVES, in_train_row=True),
    Column("of references and samples", _halves, _two, in_train_row=True),
    Column("COV-CD, %", _score("cov-cd"), _spread(1, 100), lambda x: -x, in_train_row=True),
    Column("MMD-CD", _score("mmd-cd"), _spread(4), lambda x: x, in_train_row=True),
    Column("JSD", _score("jsd"), _spread(4), lambda x: x, in_train_row=True),
    Column("spread", _score("spread-cd"), _spread(2), lambda x: abs(x - 1), in_train_row=True),
    Column("training, s", lambda runs: [run.trained_seconds for run in runs], _mean("{:.1f}")),
    Column("steps", lambda runs: [float(run.steps) for run in runs], _mean("{:.0f}")),
    Column("rate", lambda runs: [run.lr for run in runs], _mean("{:g}")),
    Column("parameters", lambda runs: [float(run.parameters) for run in runs], _mean("{:,.0f}"), lambda x: x),
    Column("sampling, ms per cloud", _milliseconds, _mean("{:.2f}"), lambda x: x),
)


def table(runs: Sequence[ModelRun], training: Training, train: pcf.metrics.Report) -> list[str]:
    """Lines of Markdown: a table of the runs of one protocol, what it means, and where a rival wins.

    Args:
        runs: of this training and of the protocol of the train split's report; others are left out.
        training: how they were trained.
        train: of the train split.
    """
    protocol = train.protocol
    mine: dict[str, list[ModelRun]] = {}
    for run in runs:
        if not differences(run, training, protocol):
            mine.setdefault(run.model, []).append(run)
    # The order is not a ranking.
    names = sorted(mine, key=list(FAMILIES).index)
    best = {column.title: _best(column, mine) for column in COLUMNS if column.badness}
    failures = [_failed(mine[name]) for name in names]
    fewest, most = min(failures, default=0.0), max(failures, default=0.0)

    lines = [f"### {protocol.data}, {protocol.split} split", ""]
    lines.append(f"| model | failed | {' | '.join(column.title for column in COLUMNS)} |")
    lines.append("| --- " * (len(COLUMNS) + 2) + "|")
    for name in names:
        failed = f"{sum(bool(run.failures) for run in mine[name])} of {len(mine[name])}"
        cells = [_bold(failed, _failed(mine[name]) == fewest < most)]
        for column in COLUMNS:
            values = column.values(mine[name])
            cell = column.text(values) if values else _missing(column, name)
            cells.append(_bold(cell, name in best.get(column.title, ())))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    split = [TrainSplit(train)]
    cells = [column.text(column.values(split)) if column.in_train_row else "" for column in COLUMNS]
    lines.append(f"| *{train.name}* |  | {' | '.join(cells)} |")
    return [*lines, "", *_legend(training, protocol), "", *_verdict(best), *_told_failures(mine)]


def _best(column: Column, runs: dict[str, list[ModelRun]]) -> list[str]:
    marks = {name: column.mark_of(own) for name, own in runs.items()}
    least = min(marks.values(), default=math.inf)
    best = [] if math.isinf(least) else [name for name, mark in marks.items() if mark == least]
    # If all are equal, a mark has no meaning.
    return [] if len(best) == len(runs) > 1 else best


def _failed(runs: Sequence[ModelRun]) -> float:
    return sum(bool(run.failures) for run in runs) / len(runs)


def _missing(column: Column, name: str) -> str:
    if column.values is _refined_nats or (column.values is _nats and not FAMILIES[name].has_density):
        return "none"
    return "not finite"


def _bold(cell: str, best: bool) -> str:
    return f"**{cell}**" if best else cell


def _legend(training: Training, protocol: pcf.metrics.Protocol) -> list[str]:
    length = f"{training.seconds:g} s" if training.seconds is not None else f"{training.max_steps} steps"
    return [
        "Bold is the best mean of a column, unless all are equal. "
        f"Every run was trained for {length}. The bound is the "
        f"importance-weighted one of {training.particles} particles, in units of the {protocol.units}, of "
        f"{training.scored_points} points of each cloud, thickened by Gaussian noise of {training.noise:g} "
        "(mean, lowest and highest run); *none* stands where a family has no density. For the refined bound, the "
        f"posterior of each cloud is refined by {REFINE_STEPS} Gauss-Newton steps from where the encoder puts it, by "
        "`vae.refine`; *none* stands where there is no such posterior. Samples of "
        f"{protocol.num_points} points are compared with as many references, which have no noise, in "
        f"{len(protocol.seeds)} draws; ± is the standard deviation over all draws of all runs. 1-NNA is best "
        "at 50%, and judged by the worse of its halves; spread "
        "(the mean distance of two samples over that of two references) at 1; COV is best high, MMD and JSD are best "
        "low. CD is the sum of both means of squared distances to the nearest. *failed* counts runs that diverged, "
        "had a bound or samples that were not finite, or collapsed; a diverged run is scored by its last finite "
        "weights, and a collapsed one by what it made.",
    ]


def _verdict(best: dict[str, list[str]]) -> list[str]:
    lost = {
        title: names
        for title, names in best.items()
        if names and all(FAMILIES[name].group == "rivals" for name in names)
    }
    if not lost:
        return ["No rival is the best of a column."]
    parts = [f"{title.split(',')[0]} ({' and '.join(names)})" for title, names in lost.items()]
    return [f"A rival is the best in: {', '.join(parts)}."]


def _told_failures(runs: dict[str, list[ModelRun]]) -> list[str]:
    lines = []
    for name, own in runs.items():
        told = [f"seed {run.seed} {', '.join(run.failures)}" for run in own if run.failures]
        if told:
            lines.append(f"- {name}: {'; '.join(told)}.")
    return lines
