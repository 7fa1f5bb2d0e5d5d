"""Reports as tables: one as a page, several of one protocol beside each other."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from pyro_pcflow.metrics.pairs import check_choice
from pyro_pcflow.metrics.set_metrics import SET_METRICS, SetMetric
from pyro_pcflow.metrics.tables import (
    Cell,
    Interval,
    Measure,
    Number,
    Table,
    cell_text,
    html_table,
    markdown_table,
    notes_html,
)

if TYPE_CHECKING:
    from pyro_pcflow.metrics.report import Report

__all__ = ["compare", "deviation", "metric_rows", "report_html", "report_page"]


def compare(reports: Sequence[Report], *, keys: Sequence[str] | None = None, allow_different: bool = False) -> Table:
    """Compare reports of one protocol in one table, for Markdown, a notebook, LaTeX or CSV.

    Args:
        reports: of the same references, compared in the same way.
        keys: of the metrics to show, in this order, such as `["1-nna-cd", "cov-cd"]`; by default all.
        allow_different: make a table of reports with different protocols all the same; its headline says in what they
            differ.

    Returns:
        A row for each report, one for the training set where there is one, and one for the permutation intervals. It
        prints as Markdown.

    Raises:
        ValueError: no reports, a key that none of them has, or protocols that differ; the message names the fields.

    Examples:
        >>> import torch
        >>> from pyro_pcflow.metrics import evaluate
        >>> references = torch.randn(8, 50, 3)
        >>> report = evaluate(torch.randn(8, 50, 3), references, data="noise")
        >>> compare([report]).headline
        '8 clouds of 50 points of noise; normalization none; seed 0.'
        >>> compare([report, evaluate(torch.randn(8, 50, 3), references, data="snow")])
        Traceback (most recent call last):
            ...
        ValueError: reports have different protocols and cannot share a table: data (noise, snow); \
evaluate them in the same way, or pass allow_different=True
    """
    if not reports:
        raise ValueError("reports: expected at least one")
    different = _differences(reports)
    if different and not allow_different:
        raise ValueError(
            f"reports have different protocols and cannot share a table: {_listed(different)}; evaluate them in the "
            "same way, or pass allow_different=True"
        )
    known = tuple(dict.fromkeys(key for report in reports for key in report))
    keys = known if keys is None else keys
    for key in keys:
        check_choice(key, known, "keys")
    rows: list[tuple[Cell, ...]] = [
        (report.name, *_measures(report.draws, keys), _nats(report), _failures(report)) for report in reports
    ]
    trained = {report.train_sha256: report for report in reports if report.train}
    baselines: list[tuple[Cell, ...]] = []
    for sha256, report in trained.items():
        name = "training set" if len(trained) == 1 else f"training set {str(sha256)[:8]}"
        baselines.append((name, *_measures(report.train, keys), "", ""))
    if any(report.null for report in reports):
        found = [next((report.null[key] for report in reports if key in report.null), None) for key in keys]
        intervals = ["" if null is None else Interval(null.low, null.high) for null in found]
        baselines.append((f"one distribution ({reports[0].name})", *intervals, "", ""))
    return Table(
        ("samples", *keys, "nats per point", "failed"),
        ("samples", *map(_title, keys), "nats per point", "failed"),
        tuple(rows),
        tuple(baselines),
        f"**Not comparable: different protocols.** {_listed(different)}." if different else _headline(reports[0]),
        _notes(reports, keys),
    )


def metric_rows(report: Report) -> list[list[str]]:
    """The metrics of a report as the texts of a table, the head first: metric, value, training set, interval."""
    rows = [["metric", report.name, "training set", "one distribution, 95%"]]
    for key in report:
        null = report.null.get(key)
        value, train = (_measures(draws, [key])[0] for draws in (report.draws, report.train))
        cells = (value, train, "" if null is None else Interval(null.low, null.high))
        rows.append([_title(key), *map(cell_text, cells)])
    return rows


def report_page(report: Report) -> str:
    """One report as a page of Markdown: metrics and what they mean, failures, likelihood and protocol."""
    notes = "\n".join(f"- {note}" for note in _notes([report], list(report)))
    parts = [f"# Evaluation of {report.name}", _headline(report), markdown_table(metric_rows(report)), notes]
    return "\n\n".join([*parts, *_remarks(report), markdown_table(_protocol_rows(report))]) + "\n"


def report_html(report: Report) -> str:
    """What a notebook shows of a report: the metrics, and the rest on a click."""
    rows = metric_rows(report)
    used = [column for column in range(len(rows[0])) if any(row[column] for row in rows[1:])]
    table = html_table([[row[column] for column in used] for row in rows])
    protocol = html_table(_protocol_rows(report), right=False)
    return "".join(
        [
            f"<p><b>Evaluation of {html.escape(report.name)}</b>: {html.escape(_headline(report))}</p>",
            table,
            *(f"<p>{html.escape(remark)}</p>" for remark in _remarks(report)),
            notes_html(_notes([report], list(report))),
            f"<details><summary>Protocol</summary>{protocol}</details>",
        ]
    )


def deviation(values: Sequence[float]) -> float:
    """Standard deviation of some values; NaN for one, or where one is not finite."""
    return stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else math.nan


def _measures(draws: dict[str, tuple[float, ...]], keys: Sequence[str]) -> list[Cell]:
    """A cell for each key, empty where it is missing."""
    cells: list[Cell] = []
    for key in keys:
        metric, values = _metric(key), draws.get(key)
        percent = metric is not None and metric.is_rate
        cells.append("" if values is None else Measure(fmean(values), deviation(values), percent))
    return cells


def _differences(reports: Sequence[Report]) -> dict[str, list[Any]]:
    """For each field of the protocol that differs, its different values, in order of appearance."""
    names = dict.fromkeys(name for report in reports for name in reports[0].protocol.differences(report.protocol))
    found: dict[str, list[Any]] = {name: [] for name in names}
    for name, values in found.items():
        for report in reports:
            value = getattr(report.protocol, name)
            if value not in values:
                values.append(value)
    return found


def _listed(different: dict[str, list[Any]]) -> str:
    return "; ".join(f"{name} ({', '.join(map(_plain, values))})" for name, values in different.items())


def _headline(report: Report) -> str:
    protocol = report.protocol
    data = " ".join(word for word in (protocol.data or "unnamed data", protocol.split) if word)
    seeds = ", ".join(map(str, protocol.seeds))
    return (
        f"{protocol.num_clouds} clouds of {protocol.num_points} points of {data}; normalization "
        f"{protocol.normalization}; seed{'s' if len(protocol.seeds) != 1 else ''} {seeds}."
    )


def _metric(key: str) -> SetMetric | None:
    return next((metric for metric in SET_METRICS if key.startswith(f"{metric.prefix}-")), None)


def _title(key: str) -> str:
    metric = _metric(key)
    if metric is None:
        return "JSD, bits" if key == "jsd" else key
    return f"{metric.title} {key.removeprefix(metric.prefix + '-')}"


def _remarks(report: Report) -> list[str]:
    remarks = [f"Failed samples, with coordinates that are not finite or too large: {_failures(report).text}."]
    if report.likelihood is not None:
        likelihood = report.likelihood
        error = (
            f" ± {likelihood.standard_error:.3f} (standard error)" if math.isfinite(likelihood.standard_error) else ""
        )
        remarks.append(
            f"Held-out likelihood: {likelihood.nats_per_point:.3f}{error} nats per point ({likelihood.kind}), "
            f"with coordinates in {likelihood.units}."
        )
    return remarks


def _protocol_rows(report: Report) -> list[list[str]]:
    rows = [["protocol", ""], *[[name, _plain(value)] for name, value in report.protocol.to_dict().items()]]
    return rows if report.train_sha256 is None else [*rows, ["training set, sha256", report.train_sha256]]


def _failures(report: Report) -> Number:
    total = report.protocol.num_clouds * len(report.failed)
    return Number(sum(report.failed), f"{sum(report.failed)} of {total}")


def _nats(report: Report) -> Number:
    if report.likelihood is None:
        return Number(math.nan, "none")
    value, kind = report.likelihood.nats_per_point, report.likelihood.kind
    return Number(value, f"{value:.3f} ({kind})", kind)


def _notes(reports: Sequence[Report], keys: Sequence[str]) -> tuple[str, ...]:
    """What the columns mean, and which distances are functions of the user."""
    notes = [metric.meaning for metric in SET_METRICS if any(_metric(key) is metric for key in keys)]
    if "jsd" in keys:
        notes.append("JSD: divergence between the occupancies of a grid, from 0 to 1 bit.")
    users = {
        f"`{suffix}`: a distance that the user defined, the function `{distance['distance']}`."
        for report in reports
        for suffix, distance in report.protocol.distances.items()
        if "defined_by" in distance
    }
    return (*notes, *sorted(users))


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        entries = {key: entry for key, entry in value.items() if entry != {}}
        nested = any(isinstance(entry, dict) for entry in entries.values())
        parts = [
            f"{key} ({_plain(entry)})" if isinstance(entry, dict) else f"{key} {_plain(entry)}"
            for key, entry in entries.items()
        ]
        return ("; " if nested else ", ").join(parts)
    if isinstance(value, (list, tuple)):
        return " ".join(map(_plain, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
