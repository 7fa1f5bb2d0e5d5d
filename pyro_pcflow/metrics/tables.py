"""Reports as Markdown: one as a page, several as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from pyro_pcflow.metrics.report import Report, deviation
from pyro_pcflow.metrics.set_metrics import NullBand

__all__ = ["compare", "metric_rows", "report_page"]


def compare(reports: Sequence[Report], *, allow_different: bool = False) -> str:
    """Put reports of one protocol into one table.

    Args:
        reports: of the same references, compared in the same way.
        allow_different: make a table of reports with different protocols all the same; a line above it says in what
            they differ.

    Returns:
        Markdown: a row for each report, one for the training set where there is one, and one for the null band.

    Raises:
        ValueError: no reports, or protocols that differ; the message names the fields.

    Examples:
        >>> import torch
        >>> from pyro_pcflow.metrics import evaluate
        >>> references = torch.randn(8, 50, 3)
        >>> report = evaluate(torch.randn(8, 50, 3), references, data="noise")
        >>> print(compare([report]).splitlines()[0])
        8 clouds of 50 points of noise; normalization none; seed 0.
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
    keys = list(dict.fromkeys(key for report in reports for key in report))
    head = _headline(reports[0]) if not different else f"**Not comparable: different protocols.** {_listed(different)}."
    rows = [["samples", *map(_title, keys), "nats per point", "failed"]]
    for report in reports:
        cells = [_cell(key, report.draws[key]) if key in report else "" for key in keys]
        rows.append([report.name, *cells, _nats(report), _failures(report)])
    trained = {report.train_sha256: report for report in reports if report.train}
    for sha256, report in trained.items():
        cells = [_cell(key, report.train[key]) if key in report.train else "" for key in keys]
        name = "*training set*" if len(trained) == 1 else f"*training set {str(sha256)[:8]}*"
        rows.append([name, *cells, "", ""])
    if any(report.null for report in reports):
        bands = [next((report.null[key] for report in reports if key in report.null), None) for key in keys]
        name = f"*one distribution* ({reports[0].name})"
        rows.append([name, *["" if band is None else _band(band) for band in bands], "", ""])
    return f"{head}\n\n{_markdown(rows)}\n\n{_legend(keys)}\n"


def metric_rows(report: Report) -> list[list[str]]:
    """The metrics of a report as the cells of a table, the head first.

    Args:
        report: what `evaluate` returned.

    Returns:
        Rows of four cells: the metric, its value, that of the training set, and the null band; empty where there is
        none.
    """
    rows = [["metric", report.name, "training set", "one distribution, 95%"]]
    for key in report:
        train = _cell(key, report.train[key]) if key in report.train else ""
        rows.append(
            [_title(key), _cell(key, report.draws[key]), train, _band(report.null[key]) if key in report.null else ""]
        )
    return rows


def report_page(report: Report) -> str:
    """One report as a page.

    Args:
        report: what `evaluate` returned.

    Returns:
        Markdown: the metrics, what they mean, failures, likelihood and protocol.
    """
    parts = [f"# Evaluation of {report.name}", _headline(report), _markdown(metric_rows(report)), _legend(list(report))]
    parts.append(f"Failed samples, with coordinates that are not finite or too large: {_failures(report)}.")
    if report.likelihood is not None:
        likelihood = report.likelihood
        error = (
            f" ± {likelihood.standard_error:.3f} (standard error)" if math.isfinite(likelihood.standard_error) else ""
        )
        parts.append(
            f"Held-out likelihood: {likelihood.nats_per_point:.3f}{error} nats per point ({likelihood.kind}), "
            f"with coordinates in {likelihood.units}."
        )
    protocol = [["protocol", ""], *[[name, _plain(value)] for name, value in report.protocol.to_dict().items()]]
    if report.train_sha256 is not None:
        protocol.append(["training set, sha256", report.train_sha256])
    return "\n\n".join([*parts, _markdown(protocol)]) + "\n"


def _differences(reports: Sequence[Report]) -> dict[str, list[Any]]:
    """For each field that differs, its different values, in order of appearance."""
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


def _title(key: str) -> str:
    for start, title in [("1-nna-", "1-NNA"), ("cov-", "COV"), ("mmd-", "MMD"), ("spread-", "spread")]:
        if key.startswith(start):
            return f"{title} {key.removeprefix(start)}"
    return "JSD, bits" if key == "jsd" else key


def _cell(key: str, values: Sequence[float]) -> str:
    mean, between = fmean(values), deviation(tuple(values))
    if key.startswith(("1-nna-", "cov-")):
        return f"{100 * mean:.1f}%" + ("" if math.isnan(between) else f" ± {100 * between:.1f}")
    return f"{mean:.4g}" + ("" if math.isnan(between) else f" ± {between:.2g}")


def _band(band: NullBand) -> str:
    if math.isnan(band.mean):
        return "too few samples"
    return f"{100 * band.low:.1f} to {100 * band.high:.1f}%"


def _failures(report: Report) -> str:
    total = report.protocol.num_clouds * len(report.failed)
    return f"{sum(report.failed)} of {total}"


def _nats(report: Report) -> str:
    if report.likelihood is None:
        return "none"
    return f"{report.likelihood.nats_per_point:.3f} ({report.likelihood.kind})"


def _legend(keys: Sequence[str]) -> str:
    lines = []
    if any(key.startswith("1-nna-") for key in keys):
        lines.append(
            "1-NNA: clouds whose nearest neighbour is of their own set; 50% is ideal, and lower is not better. Its "
            "halves: `ref`, references whose neighbour is a reference, and `smp`, samples whose neighbour is a sample."
        )
    if any(key.startswith("cov-") for key in keys):
        lines.append("COV: references that are the nearest one of some sample; compare with the training set.")
    if any(key.startswith("mmd-") for key in keys):
        lines.append("MMD: mean distance from a reference to its nearest sample, in the unit of the distance.")
    if any(key.startswith("spread-") for key in keys):
        lines.append(
            "Spread: mean distance of two samples over that of two references; 1 is ideal, near 0 is collapse."
        )
    if "jsd" in keys:
        lines.append("JSD: divergence between the occupancies of a grid, from 0 to 1 bit.")
    return "\n".join(f"- {line}" for line in lines)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(map(_plain, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table; bars within cells would end them."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
