"""Evaluation of samples against held-out references, as a report."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pyro_pcflow.metrics.cross_distances import cross_distances
from pyro_pcflow.metrics.distances import DISTANCES, SUFFIXES, Distance, DistanceLike, as_distance
from pyro_pcflow.metrics.likelihood import LogLikelihood
from pyro_pcflow.metrics.matching import emd
from pyro_pcflow.metrics.matrices import pairwise
from pyro_pcflow.metrics.nearest_matchings import random_pairs
from pyro_pcflow.metrics.occupancy import Grid, grid_around, jensen_shannon
from pyro_pcflow.metrics.pairs import nonfinite_clouds
from pyro_pcflow.metrics.protocol import Protocol, library_versions
from pyro_pcflow.metrics.report import Likelihood, Neighbours, Report
from pyro_pcflow.metrics.samples import Samples, as_clouds, make_comparable
from pyro_pcflow.metrics.set_metrics import ONE_NEAREST_NEIGHBOUR, SET_METRICS, SetDistances
from pyro_pcflow.metrics.two_sample import PermutationInterval, permutation_interval
from pyro_pcflow.ops.hashing import array_sha256

__all__ = ["DataDescription", "evaluate"]

Distances: TypeAlias = Sequence[DistanceLike] | Mapping[str, DistanceLike | tuple[DistanceLike, Mapping[str, Any]]]


@dataclass(frozen=True)
class DataDescription:
    """What a report says of the data.

    Args:
        name: of the data set.
        split: of the data set, such as `"test"`.
        units: of coordinates.
    """

    name: str = ""
    split: str = ""
    units: str = "the data's units"


def evaluate(
    samples: Samples,
    references: Tensor | np.ndarray,
    *,
    train: Tensor | np.ndarray | None = None,
    distances: Distances = ("chamfer",),
    draws: int | None = None,
    num_clouds: int | None = None,
    num_points: int | None = None,
    normalization: str = "none",
    grid: int | Grid = 28,
    permutations: int = 1000,
    spread_pairs: int | None = 5000,
    seed: int = 0,
    name: str = "samples",
    data: str | DataDescription = "",
    likelihood: LogLikelihood | None = None,
    progress: bool | None = False,
    path: str | os.PathLike[str] | None = None,
) -> Report:
    """Evaluate samples of a generative model against held-out references: 1-NNA, coverage, MMD, spread and JSD.

    As many samples are compared with as many references, by default with all of them, since 1-NNA, coverage and MMD
    depend on both numbers. Nothing is moved or scaled by default: position and size of the samples count. See
    `one_nearest_neighbour`, `coverage`, `minimum_matching_distance`, `spread` and `jensen_shannon` for what the numbers
    mean.

    A sample that has a coordinate that is not finite, or so large that distances overflow, is a failure. It is counted,
    and it counts against the model: it covers nothing, is no cloud's neighbour, counts as told apart in 1-NNA, and its
    share of the occupancy lies outside the grid.

    Args:
        samples: (S, N, D); (draws, S, N, D); or a function of the number of clouds and of points that draws (S, N, D).
        references: held-out clouds, (R, M, D), finite.
        train: the training set, (T, P, D). The same metrics are computed with some of it in place of the samples, as
            many draws as of samples, or one where there is nothing to choose: the values of a model that copies.
        distances: names for `pairwise`, each with its default options; functions of pairs of clouds, or `Distance`
            objects made of them; or a mapping from the suffix of keys to one of these, or to a pair of one and its
            options, such as `{"emd-pvd": ("approximate_emd", {"variant": "pvd"})}`. Exact EMD of many points is slow.
        draws: independent sets of samples, for a mean and a standard deviation. A function is called for each; from
            (S, N, D) disjoint sets are taken, for which S must be large enough.
        num_clouds: compare this many samples with as many references; by default as many as there are references. Of
            more clouds than that, random ones are taken.
        num_points: compare this many points of each cloud, chosen at random without repeats. By default all, which must
            be as many in samples and references; a function is asked for the number of the references.
        normalization: before clouds are compared, `"none"`; `"references"`, by the mean and the one standard deviation
            of all references; `"per_cloud"`, by those of each cloud, which hides errors of position and size; or
            `"per_cloud_box"`, by centre and half of the longest side of each cloud's bounding box.
        grid: of the occupancies: cells along each axis of the cube around the references, or a `Grid`, in coordinates
            after normalisation.
        permutations: of the permutation intervals.
        spread_pairs: of exact EMD, the other metrics need nearest neighbours only, for which most pairs of clouds need
            not be matched; spread, a mean over all pairs of a set, is then taken over as many random ones, and so is a
            little less exact where a set has more. The protocol says so. None computes whole matrices.
        seed: of all choices and of the first draw; draw k has `seed + k`.
        name: of the samples, in the report.
        data: name of the data set, in the report, or a `DataDescription` with its split and units, too.
        likelihood: of the same model on held-out clouds, see `log_likelihood`, for the report.
        progress: show bars; None shows them on a terminal, and a line every half a minute in a log.
        path: a folder to keep finished rows of matrices in, so that an interrupted call continues, and calls with the
            same references compute the distances between them once, see `pairwise`.

    Returns:
        A mapping from `"1-nna-cd"`, `"1-nna-cd-ref"`, `"1-nna-cd-smp"`, `"cov-cd"`, `"mmd-cd"`, `"spread-cd"` (and the
        same with other suffixes: `hd`, `emd`, `emd-approximate`, or the name of your function) and `"jsd"` to means
        over draws; with standard deviations, failures, permutation intervals and protocol.

    Raises:
        TypeError: not arrays of float32 or float64.
        ValueError: different dimensions, empty sets, one cloud only, fewer clouds or points than asked, different
            numbers of points, references or training clouds that are not finite, unknown names, distances that share a
            suffix, or a function that `pairwise` refuses.

    Examples:
        >>> import pyro_pcflow as pcf
        >>> bodies = pcf.data.load_example("body", num_points=64)[:80]
        >>> report = evaluate(bodies[:40], bodies[40:], data="body")
        >>> 0.3 < report["1-nna-cd"] < 0.7  # both are bodies
        True
        >>> report = evaluate(bodies[:40] + 1, bodies[40:], data="body")
        >>> report["1-nna-cd"], report["cov-cd"] < 0.3
        (1.0, True)
    """
    asked = _resolve(distances)
    if permutations < 1:
        raise ValueError(f"permutations: expected at least 1, got {permutations}")
    if spread_pairs is not None and spread_pairs < 1:
        raise ValueError(f"spread_pairs: expected at least 1, or None for all pairs, got {spread_pairs}")
    references = as_clouds(references, "references")
    train = None if train is None else as_clouds(train, "train")
    sets = make_comparable(
        samples,
        references,
        train,
        draws=draws,
        num_clouds=num_clouds,
        num_points=num_points,
        normalization=normalization,
        seed=seed,
    )
    grid = grid if isinstance(grid, Grid) else grid_around(sets.references, grid)

    values: dict[str, list[float]] = {}
    train_values: dict[str, list[float]] = {}
    failed = [nonfinite_clouds(clouds) for clouds in sets.samples]
    null: dict[str, PermutationInterval] = {}
    neighbours = None
    for suffix, (distance, options) in asked.items():
        distances_of = partial(pairwise, distance=distance, options=options, progress=progress, path=path)
        compare = _Comparison(
            distances_of, sets.references, _sample(distance, len(sets.references), spread_pairs, seed)
        )
        for draw, clouds in enumerate(sets.samples):
            found = compare(clouds)
            failed[draw] = failed[draw] | cross_distances(found.cross).failed.to(failed[draw].device)
            _append(values, suffix, found)
            if draw == 0:
                intervals = permutation_interval(*found[:3], permutations=permutations, seed=seed)
                null.update(zip(ONE_NEAREST_NEIGHBOUR.keys(suffix), intervals, strict=True))
                neighbours = neighbours or Neighbours(clouds.cpu(), sets.references.cpu(), found.cross.cpu(), suffix)
        for clouds in sets.train:
            _append(train_values, suffix, compare(clouds))
    values["jsd"] = [jensen_shannon(clouds, sets.references, grid=grid) for clouds in sets.samples]
    if sets.train:
        train_values["jsd"] = [jensen_shannon(clouds, sets.references, grid=grid) for clouds in sets.train]

    description = data if isinstance(data, DataDescription) else DataDescription(data)
    protocol = Protocol(
        data=description.name,
        sha256=array_sha256(references),
        split=description.split,
        num_clouds=len(sets.references),
        num_points=sets.references.shape[1],
        point_dim=references.shape[-1],
        normalization=normalization,
        units=description.units,
        distances={suffix: _describe(*one, len(sets.references), spread_pairs) for suffix, one in asked.items()},
        grid={"resolution": grid.resolution, "low": list(grid.low), "high": list(grid.high)},
        permutations=permutations,
        seeds=tuple(range(seed, seed + len(sets.samples))),
        versions=library_versions(),
    )
    return Report(
        name,
        protocol,
        {key: tuple(entries) for key, entries in values.items()},
        tuple(int(which.sum()) for which in failed),
        {key: tuple(entries) for key, entries in train_values.items()},
        None if train is None else array_sha256(train),
        null,
        None if likelihood is None else Likelihood.of(likelihood),
        neighbours,
    )


def _describe(distance: Distance, options: dict[str, Any], count: int, pairs: int | None) -> dict[str, Any]:
    words = distance.describe(options)
    few = pairs is not None and distance.function is emd and pairs < count * (count - 1) // 2
    return words | ({"spread_pairs": pairs} if few else {})


def _resolve(distances: Distances) -> dict[str, tuple[Distance, dict[str, Any]]]:
    """For each suffix the distance and all of its options, those that were not given at their defaults."""
    if isinstance(distances, (str, Distance)) or callable(distances):
        raise TypeError(f"distances: expected a sequence of names or functions, or a mapping, got {distances!r}")
    if not distances:
        raise ValueError(f"distances: expected at least one of {', '.join(map(repr, DISTANCES))}, or a function")
    asked: list[tuple[str, Distance, dict[str, Any]]] = []
    if isinstance(distances, Mapping):
        for suffix, given in distances.items():
            one, options = given if isinstance(given, tuple) else (given, {})
            distance = as_distance(one, f"distances[{suffix!r}]")
            asked.append((suffix, distance, distance.options(options)))
    else:
        for one in distances:
            distance = as_distance(one, "distances")
            asked.append((SUFFIXES.get(distance.name, distance.name), distance, distance.options({})))
    keys = [key for suffix, _, _ in asked for metric in SET_METRICS for key in metric.keys(suffix)]
    if shared := [key for key in keys if keys.count(key) > 1]:
        raise ValueError(
            f"distances: two of them have the key {shared[0]!r}; give one another name by "
            "Distance(function, name=...), or give a mapping from suffixes of keys"
        )
    return {suffix: (distance, options) for suffix, distance, options in asked}


def _sample(distance: Distance, count: int, pairs: int | None, seed: int) -> Tensor | None:
    """The pairs of a set that spread is the mean of, and beside nearest neighbours all that is needed; None for all."""
    return None if pairs is None or distance.function is not emd else random_pairs(count, pairs, seed)


class _Comparison:
    """Distances of sets of clouds to the references, and within both.

    Args:
        distances_of: `pairwise` with its options.
        references: (R, N, D).
        sample: (R, R) boolean, pairs that spread is the mean of, or None for all.
    """

    def __init__(self, distances_of: Callable[..., Tensor], references: Tensor, sample: Tensor | None) -> None:
        self.distances_of, self.references, self.sample = distances_of, references, sample
        self.theirs = distances_of(references, needed=sample)

    def __call__(self, clouds: Tensor) -> SetDistances:
        own = self.distances_of(clouds, needed=self.sample)
        nothing = None if self.sample is None else torch.zeros_like(self.sample)
        cross = self.distances_of(clouds, self.references, needed=nothing)
        pairs = ~torch.eye(len(own), dtype=torch.bool) if self.sample is None else self.sample
        return SetDistances(own, self.theirs, cross, own.cpu()[pairs], self.theirs.cpu()[pairs])


def _append(values: dict[str, list[float]], suffix: str, found: SetDistances) -> None:
    for metric in SET_METRICS:
        for key, value in zip(metric.keys(suffix), metric.compute(found), strict=True):
            values.setdefault(key, []).append(value)
