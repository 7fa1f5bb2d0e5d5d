"""The report of an evaluation: metrics with their protocol, as a mapping, JSON, Markdown, LaTeX, CSV and HTML."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from pyro_pcflow.metrics.comparison import compare, deviation, report_html, report_page
from pyro_pcflow.metrics.likelihood import LogLikelihood
from pyro_pcflow.metrics.protocol import Protocol
from pyro_pcflow.metrics.tables import write_text
from pyro_pcflow.metrics.two_sample import PermutationInterval
from pyro_pcflow.ops.reading import phrase, printable, read_small_text, shortened

__all__ = ["SCHEMA_VERSION", "Likelihood", "Neighbours", "Report"]

SCHEMA = "pyro-pcflow report"
SCHEMA_VERSION = 1
MOST_BYTES = 1 << 24


@dataclass(frozen=True)
class Likelihood:
    """The held-out likelihood of the model that drew the samples.

    Args:
        nats_per_point: mean over held-out points.
        standard_error: from the spread between clouds.
        kind: `"exact"`, or which bound.
        units: the unit of coordinates that the density is per.
    """

    nats_per_point: float
    standard_error: float
    kind: str
    units: str

    @classmethod
    def of(cls, result: LogLikelihood) -> Likelihood:
        """The summary of log-densities of clouds."""
        return cls(result.nats_per_point, result.standard_error, result.kind, result.units)


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The clouds that were compared in the first draw, for pictures.

    Args:
        samples: (S, N, D), after choice of points and normalisation.
        references: (S, N, D).
        distances: (S, S) of float64, NaN in the rows of failed samples; of exact EMD, those of pairs that are not
            nearest either way may be lower bounds, see `pairwise`.
        distance: the suffix of the distance.
    """

    samples: Tensor
    references: Tensor
    distances: Tensor
    distance: str


@dataclass(frozen=True)
class Report(Mapping[str, float]):
    """Metrics by name, each a mean over draws, with the protocol that they depend on. A notebook shows it as a table.

    Keys end in the suffix of a distance, such as `cd`: `"1-nna-cd"`, with its halves `"1-nna-cd-ref"` and
    `"1-nna-cd-smp"`, `"cov-cd"`, `"mmd-cd"`, `"spread-cd"`; and `"jsd"` in bits. Rates are in [0, 1].

    Args:
        name: of the samples.
        protocol: how they were compared.
        draws: for each key, one value per draw.
        failed: for each draw, the number of failed samples: with coordinates that are not finite, or too large.
        train: the same with clouds of the training set in place of the samples; empty if there is none.
        train_sha256: of the training set.
        null: for the keys of 1-NNA, the interval if both sets are of one distribution, from the first draw.
        likelihood: of the model on held-out clouds, if it has one.
        neighbours: clouds and distances of the first draw; neither saved nor compared.

    Examples:
        >>> import torch
        >>> from pyro_pcflow.metrics import evaluate
        >>> report = evaluate(torch.randn(8, 50, 3), torch.randn(8, 50, 3))
        >>> sorted(report)
        ['1-nna-cd', '1-nna-cd-ref', '1-nna-cd-smp', 'cov-cd', 'jsd', 'mmd-cd', 'spread-cd']
        >>> Report.from_json(report.to_json())["mmd-cd"] == report["mmd-cd"]
        True
    """

    name: str
    protocol: Protocol
    draws: dict[str, tuple[float, ...]]
    failed: tuple[int, ...]
    train: dict[str, tuple[float, ...]] = field(default_factory=dict)
    train_sha256: str | None = None
    null: dict[str, PermutationInterval] = field(default_factory=dict)
    likelihood: Likelihood | None = None
    neighbours: Neighbours | None = field(default=None, repr=False, compare=False)

    def __getitem__(self, key: str) -> float:
        return fmean(self.draws[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self.draws)

    def __len__(self) -> int:
        return len(self.draws)

    def std(self, key: str) -> float:
        """Standard deviation between draws; NaN for one draw.

        Args:
            key: of a metric.
        """
        return deviation(self.draws[key])

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """Write the report as JSON, numbers in full precision; those that are not finite as words.

        Args:
            path: a new file to write to as well.

        Returns:
            The text.

        Raises:
            FileExistsError: the file is there already; nothing is overwritten.
        """
        content = {
            "schema": SCHEMA,
            "version": SCHEMA_VERSION,
            "name": self.name,
            "protocol": self.protocol.to_dict(),
            "metrics": {key: {"mean": self[key], "std": self.std(key), "draws": self.draws[key]} for key in self},
            "failed": self.failed,
            "train": self.train,
            "train_sha256": self.train_sha256,
            "null": {key: interval._asdict() for key, interval in self.null.items()},
            "likelihood": None if self.likelihood is None else vars(self.likelihood),
        }
        return write_text(json.dumps(_as_words(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n", path)

    @classmethod
    def from_json(cls, source: str | os.PathLike[str]) -> Report:
        """Read what `to_json` wrote.

        Args:
            source: the text, or the path of a file.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a file of JSON, not a report, or one of another version of the schema.
        """
        given = isinstance(source, str) and source.lstrip().startswith("{")
        name = "report" if given else printable(source)
        try:
            content = json.loads(str(source) if given else read_small_text(Path(source), MOST_BYTES))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{name}: no such file") from error
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"{name}: not JSON ({phrase(error)})") from error
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise ValueError(f"{name}: not a report of pyro-pcflow, which says schema {SCHEMA!r}")
        if content.get("version") != SCHEMA_VERSION:
            version = shortened(content.get("version"))
            raise ValueError(f"{name}: version {version} of the schema, expected {SCHEMA_VERSION}")
        try:
            likelihood = content["likelihood"]
            return cls(
                content["name"],
                Protocol.from_dict(content["protocol"]),
                {key: _floats(entry["draws"]) for key, entry in content["metrics"].items()},
                tuple(content["failed"]),
                {key: _floats(draws) for key, draws in content["train"].items()},
                content["train_sha256"],
                {
                    key: PermutationInterval(**{end: float(value) for end, value in ends.items()})
                    for key, ends in content["null"].items()
                },
                None
                if likelihood is None
                else Likelihood(**_as_numbers(likelihood, ("nats_per_point", "standard_error"))),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{name}: a field is missing or of another type: {phrase(error)}") from error

    def to_markdown(self, path: str | os.PathLike[str] | None = None) -> str:
        """The report as a page: a table of metrics, failures, and the protocol.

        Args:
            path: a new file to write to as well.

        Returns:
            The text.

        Raises:
            FileExistsError: the file is there already; nothing is overwritten.
        """
        return write_text(report_page(self), path)

    def to_latex(self, path: str | os.PathLike[str] | None = None) -> str:
        """The report as a LaTeX `tabular` for booktabs, with one row and what to compare it with.

        `compare` makes one of several reports, or of some metrics.

        Args:
            path: a new file to write to as well.

        Returns:
            The text.

        Raises:
            FileExistsError: the file is there already; nothing is overwritten.
        """
        return compare([self]).to_latex(path)

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """The report as CSV: a header, one row, and one of the training set if there is one; rates in percent.

        `compare` makes one of several reports.

        Args:
            path: a new file to write to as well.

        Returns:
            The text.

        Raises:
            FileExistsError: the file is there already; nothing is overwritten.
        """
        return compare([self]).to_csv(path)

    def _repr_html_(self) -> str:
        return report_html(self)


def _as_words(value: Any) -> Any:
    """Replace numbers that JSON has no word for."""
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, dict):
        return {key: _as_words(entry) for key, entry in value.items()}
    return [_as_words(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _as_numbers(values: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: float(value) if key in keys else value for key, value in values.items()}


def _floats(values: list[Any]) -> tuple[float, ...]:
    return tuple(map(float, values))
