"""Simulation-based calibration: whether an inference finds the posterior of a model, on data of the model itself."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from pyro import poutine
from scipy import stats
from torch import Tensor

from pyro_pcflow.ops.progress import progress_bar
from pyro_pcflow.ops.random import seeded

__all__ = ["Calibration", "simulation_based_calibration"]

Sites = dict[str, Tensor]
# From data to draws of the latents, shape (K, *shape) each.
Infer = Callable[[Sites], Mapping[str, Tensor]]
# From latents and data to numbers.
Quantity = Callable[[Sites, Sites], Tensor]
# Uniform samples by which simultaneous bands and p-values are found.
SIMULATIONS = 4000
# Coordinates of a latent that are ranked, unless you say which.
MOST_COORDINATES = 8


@dataclass(frozen=True, eq=False)
class Calibration:
    """Ranks of true quantities among those of posterior draws, which are uniform if the inference is right.

    Attributes:
        ranks: by quantity, shape `(num_datasets,)`: how many draws lie below the truth.
        num_draws: posterior draws per data set.

    Examples:
        >>> generator = np.random.default_rng(0)
        >>> right = Calibration({"x": generator.integers(0, 101, 200)}, num_draws=100)
        >>> wrong = Calibration({"x": generator.integers(30, 71, 200)}, num_draws=100)
        >>> right.p_values["x"] > 0.01, wrong.p_values["x"] < 0.01
        (True, True)
    """

    ranks: dict[str, NDArray[np.int64]]
    num_draws: int

    @property
    def num_datasets(self) -> int:
        """Number of data sets."""
        return len(next(iter(self.ranks.values())))

    @property
    def p_values(self) -> dict[str, float]:
        """By quantity, the probability of ranks that are as far from uniform, if the inference is right.

        The distance is that of the simultaneous bands of `plot`: the least pointwise probability over the empirical
        distribution function (Säilynoja, Bürkner and Vehtari, Graphical test for discrete uniformity and its
        applications in goodness-of-fit evaluation and multiple sample comparison, Statistics and Computing 2022).
        """
        simulated = _simulated_extremes(self.num_datasets, self.num_draws)
        found = {}
        for name, ranks in self.ranks.items():
            extreme = _extremes(ranks[None], self.num_draws)[0]
            found[name] = float((1 + (simulated <= extreme * (1 + 1e-9)).sum()) / (1 + len(simulated)))
        return found

    def coverage(self, levels: Sequence[float] = (0.5, 0.8, 0.9, 0.95)) -> dict[str, dict[float, float]]:
        """By quantity and level, the share of data sets whose truth lies in the central interval of the draws.

        An interval between order statistics holds at most the level of the draws' ranks, and the share is compared
        with what a uniform rank would have.

        Args:
            levels: between 0 and 1.
        """
        found: dict[str, dict[float, float]] = {}
        for name, ranks in self.ranks.items():
            # A uniform rank, made continuous, lies within the middle share with exactly this probability.
            middle = (ranks + 0.5) / (self.num_draws + 1)
            found[name] = {level: float((abs(middle - 0.5) <= level / 2).mean()) for level in levels}
        return found

    def table(self, levels: Sequence[float] = (0.5, 0.8, 0.9, 0.95)) -> str:
        """Coverage and p-values as a table in Markdown."""
        covered, p_values = self.coverage(levels), self.p_values
        lines = [
            f"| quantity | {' | '.join(f'{level:.0%}' for level in levels)} | p |",
            f"| --- |{' --- |' * (len(levels) + 1)}",
        ]
        for name in self.ranks:
            shares = " | ".join(f"{covered[name][level]:.0%}" for level in levels)
            lines.append(f"| {name} | {shares} | {p_values[name]:.3f} |")
        return "\n".join(lines)

    def plot(self, level: float = 0.95) -> Any:
        """Draw the empirical distribution function of each quantity's ranks less the uniform one, with bands.

        Args:
            level: of the simultaneous bands: the probability that the whole curve of a right inference lies within.

        Returns:
            A figure of matplotlib.
        """
        from matplotlib.figure import Figure  # slow to import

        names = list(self.ranks)
        columns = min(4, len(names))
        rows = math.ceil(len(names) / columns)
        figure = Figure(figsize=(2.6 * columns, 2.0 * rows + 0.3), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        places = np.arange(self.num_draws + 1)
        uniform = (places + 1) / (self.num_draws + 1)
        low, high = _bands(self.num_datasets, self.num_draws, level)
        for axes, name in zip(grid.flat, names, strict=False):
            curve = (self.ranks[name][:, None] <= places).mean(0)
            axes.fill_between(uniform, low - uniform, high - uniform, step="post", color="0.85", lw=0)
            axes.axhline(0, color="0.6", lw=0.8)
            inside = bool(((curve >= low - 1e-9) & (curve <= high + 1e-9)).all())
            axes.step(uniform, curve - uniform, where="post", color="C0" if inside else "C3", lw=1.4)
            axes.set_title(name, fontsize="small")
            axes.spines[["top", "right"]].set_visible(False)
        for axes in list(grid.flat)[len(names) :]:
            axes.set_visible(False)
        figure.supxlabel("rank of the truth, as a share", fontsize="small")
        figure.supylabel("ECDF less uniform", fontsize="small")
        return figure


def simulation_based_calibration(
    model: Callable[[], Any],
    infer: Infer,
    *,
    observed: Iterable[str],
    num_datasets: int = 200,
    num_draws: int | None = None,
    quantities: Mapping[str, Quantity] | None = None,
    seed: int = 0,
    num_processes: int = 1,
    out: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Calibration:
    """Check an inference on data that its model draws: ranks of the truth among posterior draws.

    If the draws are from the posterior and independent, the rank of any quantity of the true latents among them is
    uniform (Talts et al., Validating Bayesian inference algorithms with simulation-based calibration, 2018; Modrák et
    al., Simulation-based calibration checking for Bayesian computation: the choice of test quantities shapes
    sensitivity, Bayesian Analysis 2023). Single coordinates hide failures, so that these are ranked as well:

    - `log prior` and `log likelihood`, of the latents and of the data;
    - `tarp`, the distance of the latents from a random place, which sees their dependence (Lemos et al., Sampling-based
      accuracy testing of posterior estimators for general inference, ICML 2023).

    Draws of a chain are not independent: thin them.

    Args:
        model: any Pyro model, called without arguments; it samples latents and data.
        infer: from the data, by name of its sites, to draws of latents, shape `(K, *shape)` each, by name.
        observed: names of the sites that are data.
        num_datasets: number of simulated data sets.
        num_draws: draws of each posterior that are used, evenly spaced; all of the first one's by default.
        quantities: functions of latents and data, both by name and without the dimension of draws, that return numbers,
            by name; several numbers are ranked one by one. By default the first 8 coordinates of every latent that
            `infer` returns. What the list above says is always added.
        seed: decides all data sets, and the random numbers of `infer`.
        num_processes: data sets at once, each in a process of its own by fork; more than 1 only where there is fork.
        out: a file of lines of JSON that keeps the ranks of finished data sets; those that it has are not done again.
        progress: shows how far it has come, as `fit` does.

    Returns:
        The ranks, with tests, coverage and a figure.

    Raises:
        ValueError: if a site is missing, a number is out of range, or `out` is of another call.

    Examples:
        >>> import pyro.distributions as dist
        >>> def model():
        ...     loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(loc, 1.0))
        >>> def infer(data):
        ...     return {"loc": dist.Normal(data["x"] / 2, 0.5**0.5).sample((50,))}
        >>> result = simulation_based_calibration(model, infer, observed=["x"], num_datasets=40, progress=False)
        >>> sorted(result.ranks), min(result.p_values.values()) > 0.01
        (['loc', 'log likelihood', 'log prior', 'tarp'], True)
    """
    names = [observed] if isinstance(observed, str) else list(observed)
    if num_datasets < 1 or num_processes < 1 or (num_draws is not None and num_draws < 2):
        raise ValueError(
            "expected num_datasets and num_processes of at least 1 and num_draws of at least 2, got "
            f"{num_datasets}, {num_processes} and {num_draws}"
        )
    task = _Task(model, infer, names, num_draws, None if quantities is None else dict(quantities), seed)
    done = _read(out, seed, names) if out is not None else {}
    remaining = [number for number in range(num_datasets) if number not in done]
    with progress_bar(progress, "calibration", unit="data set", total=num_datasets, initial=len(done)) as bar:
        for number, ranks, count in _results(task, remaining, num_processes):
            done[number] = (ranks, count)
            if out is not None:
                _append(out, seed, names, number, ranks, count)
            bar.update()
    counts = {count for _, count in done.values()}
    if len(counts) > 1:
        raise ValueError(f"infer returned different numbers of draws, {sorted(counts)}: give num_draws")
    rows = [done[number][0] for number in range(num_datasets)]
    return Calibration({name: np.array([row[name] for row in rows]) for name in rows[0]}, counts.pop())


@dataclass(frozen=True)
class _Task:
    """What is done for one data set."""

    model: Callable[[], Any]
    infer: Infer
    observed: list[str]
    num_draws: int | None
    quantities: dict[str, Quantity] | None
    seed: int

    def __call__(self, number: int) -> tuple[int, dict[str, int], int]:
        seed = int(np.random.SeedSequence((self.seed, number)).generate_state(1, np.uint64)[0] >> 1)
        with seeded(seed):
            # The order in which a model samples its sites must not decide what `infer` draws.
            trace = self._trace({})
            latents = self._latents(trace)
            data = {name: trace.nodes[name]["value"].detach() for name in self.observed}
            other = self._trace({})
            drawn = {name: torch.as_tensor(values).detach() for name, values in self.infer(data).items()}
            truth = {name: trace.nodes[name]["value"].detach() for name in drawn if name in latents}
            if not truth:
                raise ValueError(
                    f"infer returned draws of {', '.join(drawn)}, none of which is a latent of the model: "
                    f"{', '.join(latents)}"
                )
            reference = {name: other.nodes[name]["value"].detach() for name in truth}
            count = len(next(iter(drawn.values())))
            if self.num_draws is not None:
                if count < self.num_draws:
                    raise ValueError(f"infer returned {count} draws, fewer than num_draws={self.num_draws}")
                rows = torch.linspace(0, count - 1, self.num_draws).round().long()
                drawn, count = {name: values[rows] for name, values in drawn.items()}, self.num_draws
            true = self._values(truth, data, reference, trace)
            others = [
                self._values({name: drawn[name][row] for name in truth}, data, reference, None) for row in range(count)
            ]
            ties = torch.rand(len(true)).tolist()
        ranks = {}
        for (name, value), tie in zip(true.items(), ties, strict=True):
            column = [row[name] for row in others]
            equal = sum(other == value for other in column)
            ranks[name] = sum(other < value for other in column) + int(tie * (equal + 1))
        return number, ranks, count

    def _trace(self, given: Sites) -> poutine.Trace:
        with pyro.get_param_store().scope(), torch.no_grad():
            return poutine.trace(poutine.condition(self.model, data=given)).get_trace()

    def _latents(self, trace: poutine.Trace) -> list[str]:
        sites = [
            name
            for name, site in trace.nodes.items()
            if site["type"] == "sample" and not poutine.util.site_is_subsample(site)
        ]
        missing = [name for name in self.observed if name not in sites]
        if missing or not self.observed:
            raise ValueError(f"the model has no site {', '.join(missing)} to observe; it has {', '.join(sites)}")
        return [name for name in sites if name not in self.observed]

    def _values(self, latents: Sites, data: Sites, reference: Sites, trace: poutine.Trace | None) -> dict[str, float]:
        """All ranked quantities of some latents."""
        if trace is None:
            trace = self._trace({**latents, **data})
        found: dict[str, float] = {}
        if self.quantities is None:
            for name, value in latents.items():
                found |= _numbered(name, value.flatten()[:MOST_COORDINATES])
        else:
            for name, quantity in self.quantities.items():
                found |= _numbered(name, torch.as_tensor(quantity(latents, data)).flatten())
        with torch.no_grad():
            trace.compute_log_prob()
        terms = {"log prior": 0.0, "log likelihood": 0.0}
        for name, site in trace.nodes.items():
            if site["type"] == "sample" and not poutine.util.site_is_subsample(site):
                kind = "log likelihood" if name in self.observed else "log prior"
                terms[kind] += float(site["log_prob_sum"])
        distance = sum(float((latents[name] - place).double().square().sum()) for name, place in reference.items())
        return {**found, **terms, "tarp": distance}


def _numbered(name: str, values: Tensor) -> dict[str, float]:
    if len(values) == 1:
        return {name: float(values)}
    return {f"{name}[{index}]": value for index, value in enumerate(values.tolist())}


def _results(task: _Task, numbers: Sequence[int], num_processes: int) -> Iterator[tuple[int, dict[str, int], int]]:
    if num_processes == 1:
        yield from map(task, numbers)
        return
    if "fork" not in multiprocessing.get_all_start_methods():
        raise ValueError("several processes need fork, which this system lacks: leave num_processes at 1")
    # Models and functions of a notebook cannot be pickled: a forked process has them already.
    with _shared(task), multiprocessing.get_context("fork").Pool(num_processes, _one_thread) as pool:
        yield from pool.imap_unordered(_run_shared, numbers)


_SHARED: list[_Task] = []


@contextmanager
def _shared(task: _Task) -> Iterator[None]:
    _SHARED.append(task)
    try:
        yield
    finally:
        _SHARED.remove(task)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _run_shared(number: int) -> tuple[int, dict[str, int], int]:
    return _SHARED[-1](number)


def _read(out: str | os.PathLike[str], seed: int, observed: list[str]) -> dict[int, tuple[dict[str, int], int]]:
    path = Path(out)
    if not path.exists():
        return {}
    done = {}
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n"):
            break  # the process was stopped while it wrote
        try:
            entry = json.loads(line)
            key = (entry["seed"], entry["observed"])
            ranks = {str(name): int(rank) for name, rank in dict(entry["ranks"]).items()}
            done[int(entry["number"])] = (ranks, int(entry["draws"]))
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{path}: expected lines that simulation_based_calibration wrote: name another file"
            ) from None
        if key != (seed, observed):
            raise ValueError(f"{path}: of a calibration with seed={key[0]} and observed={key[1]}: name another file")
    return done


def _append(
    out: str | os.PathLike[str], seed: int, observed: list[str], number: int, ranks: dict[str, int], count: int
) -> None:
    entry = {"seed": seed, "observed": observed, "number": number, "draws": count, "ranks": ranks}
    with Path(out).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def _extremes(ranks: NDArray[np.int64], num_draws: int) -> NDArray[np.float64]:
    """The least two-sided pointwise probability of empirical distribution functions of ranks `(S, n)`, shape `(S,)`."""
    count = ranks.shape[1]
    histogram = np.zeros((len(ranks), num_draws + 1), dtype=np.int64)
    np.add.at(histogram, (np.arange(len(ranks))[:, None], ranks), 1)
    below = histogram.cumsum(1)[:, :-1]
    uniform = np.arange(1, num_draws + 1) / (num_draws + 1)
    at_most = stats.binom.cdf(below, count, uniform)
    at_least = stats.binom.sf(below - 1, count, uniform)
    return 2 * np.minimum(at_most, at_least).min(1)


@lru_cache(maxsize=16)
def _simulated_extremes(num_datasets: int, num_draws: int) -> NDArray[np.float64]:
    ranks = np.random.default_rng(0).integers(0, num_draws + 1, (SIMULATIONS, num_datasets))
    return np.sort(_extremes(ranks, num_draws))


def _bands(num_datasets: int, num_draws: int, level: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Simultaneous bands of the empirical distribution function, shape `(num_draws + 1,)` each."""
    gamma = np.quantile(_simulated_extremes(num_datasets, num_draws), 1 - level)
    uniform = np.arange(1, num_draws + 2) / (num_draws + 1)
    low = stats.binom.ppf(gamma / 2, num_datasets, uniform) / num_datasets
    high = stats.binom.ppf(1 - gamma / 2, num_datasets, uniform) / num_datasets
    return low, high
