"""From samples and references to a report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_pcflow.metrics.cross_distances import cross_distances, failed_clouds
from pyro_pcflow.metrics.likelihood import LogLikelihood
from pyro_pcflow.metrics.matrices import DISTANCES, pairwise
from pyro_pcflow.metrics.occupancy import Grid, grid_around, jensen_shannon
from pyro_pcflow.metrics.pairs import check_choice
from pyro_pcflow.metrics.protocol import Protocol, library_versions
from pyro_pcflow.metrics.report import Likelihood, Neighbours, Report
from pyro_pcflow.metrics.samples import Samples, Scale, as_clouds, choose_clouds, choose_points, draw_samples
from pyro_pcflow.metrics.set_metrics import (
    NullBand,
    coverage,
    minimum_matching_distance,
    null_band,
    one_nearest_neighbour,
    spread,
)
from pyro_pcflow.ops.hashing import array_sha256

__all__ = ["SUFFIXES", "evaluate"]

# How the keys of a distance with its default options end.
SUFFIXES = {
    "chamfer": "cd",
    "hausdorff": "hd",
    "emd": "emd",
    "approximate_emd": "emd-approximate",
    "sinkhorn": "sinkhorn",
}
Distances = Sequence[str] | Mapping[str, tuple[str, Mapping[str, Any]]]


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
    resolution: int = 28,
    bounds: tuple[float | Sequence[float], float | Sequence[float]] | None = None,
    permutations: int = 1000,
    seed: int = 0,
    name: str = "samples",
    data: str = "",
    split: str = "",
    units: str = "the data's units",
    likelihood: LogLikelihood | None = None,
    progress: bool | None = False,
    path: str | os.PathLike[str] | None = None,
) -> Report:
    """Compare samples of a model with held-out references.

    As many samples are compared with as many references, by default with all of them, since 1-NNA, coverage and MMD
    depend on both numbers. Nothing is moved or scaled by default: place and size of the samples count. See
    `one_nearest_neighbour`, `coverage`, `minimum_matching_distance` and `jensen_shannon` for what the numbers mean.

    A sample that has a coordinate that is not finite, or so large that distances overflow, is a failure. It is counted,
    and it counts against the model: it covers nothing, is nobody's neighbour, is told apart by 1-NNA, and its share of
    the occupancy lies outside of the grid.

    Args:
        samples: (S, N, D); (draws, S, N, D); or a function of the number of clouds and of points that draws (S, N, D).
        references: held-out clouds, (R, M, D), finite.
        train: the training set, (T, P, D). The same metrics are computed with some of it in place of the samples, as
            many draws as of samples, or one where there is nothing to choose: what a model could reach by copying.
        distances: names for `pairwise`, each with its default options, or a mapping from the suffix of keys to a name
            and options, such as `{"emd-pvd": ("approximate_emd", {"variant": "pvd"})}`. Exact EMD of many points takes
            long.
        draws: independent sets of samples, for a mean and a standard deviation. A function is called for each; from
            (S, N, D) disjoint sets are taken, for which S must be large enough.
        num_clouds: compare so many samples with so many references; by default as many as there are references. More
            clouds than that are chosen from at random.
        num_points: compare so many points of each cloud, chosen at random without repeats. By default all, which must
            be as many in samples and references; a function is asked for the number of the references.
        normalization: before clouds are compared, `"none"`; `"references"`, by the mean and the one standard deviation
            of all references; `"per_cloud"`, by those of each cloud, which hides errors of place and size; or
            `"per_cloud_box"`, by centre and half of the longest side of each cloud's bounding box.
        resolution: cells of the occupancy grid along each axis.
        bounds: of that grid, after normalisation; by default the cube around the references, see `grid_around`.
        permutations: of the null band.
        seed: of all choices and of the first draw; draw k has `seed + k`.
        name: of the samples, in the report.
        data: name of the data set, in the report.
        split: name of its split, in the report.
        units: the unit of coordinates, in the report.
        likelihood: of the same model on held-out clouds, see `log_likelihood`, for the report.
        progress: show bars; None shows them where they are seen, and a line every half a minute in a log.
        path: a folder to keep finished rows of matrices in, so that an interrupted call continues, and calls with the
            same references compute the distances between them once, see `pairwise`.

    Returns:
        A mapping from `"1-nna-cd"`, `"1-nna-cd-ref"`, `"1-nna-cd-smp"`, `"cov-cd"`, `"mmd-cd"`, `"spread-cd"` (and the
        same with other suffixes: `hd`, `emd`, `emd-approximate`) and `"jsd"` to means over draws; with standard
        deviations, failures, null band and protocol.

    Raises:
        TypeError: not arrays of float32 or float64.
        ValueError: different dimensions, empty sets, one cloud only, fewer clouds or points than asked, different
            numbers of points, references or training clouds that are not finite, or unknown names.

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
    references = as_clouds(references, "references")
    sha256 = array_sha256(references)
    asked = _resolve(distances)
    count = len(references) if num_clouds is None else num_clouds
    if count < 2:
        raise ValueError(
            f"{'references' if num_clouds is None else 'num_clouds'}: expected at least two clouds, since a neighbour "
            f"must be another one, got {count}"
        )
    if permutations < 1:
        raise ValueError(f"permutations: expected at least 1, got {permutations}")
    _require_finite(references, "references")
    train = None if train is None else as_clouds(train, "train")
    if train is not None:
        _require_finite(train, "train")
    points = references.shape[1] if num_points is None else num_points
    if points < 1:
        raise ValueError(f"num_points: expected at least 1, got {num_points}")
    compared = choose_clouds(references, count, "references", seed, "references")
    sets = draw_samples(samples, draws, count, num_points, references.shape[1], seed)
    for clouds, kind in [(sets[0], "samples"), (train, "train")]:
        if clouds is not None and clouds.shape[-1] != references.shape[-1]:
            raise ValueError(
                f"{kind} and references: expected points of one dimension, got shapes {tuple(clouds.shape)} and "
                f"{tuple(references.shape)}"
            )
    trained = [] if train is None else _training_sets(train, len(sets), count, points, seed)
    dtype = torch.promote_types(sets[0].dtype, compared.dtype)
    compared = choose_points(compared, points, "references", seed, "references").to(dtype)
    scale = Scale(normalization, compared)
    sets = [scale(clouds.to(compared)) for clouds in sets]
    trained = [scale(clouds.to(compared)) for clouds in trained]
    compared = scale(compared)
    for clouds in trained:
        _require_finite(clouds, "train, after normalisation")
    grid = grid_around(compared, resolution, bounds)

    values: dict[str, list[float]] = {}
    train_values: dict[str, list[float]] = {}
    failed = [failed_clouds(clouds) for clouds in sets]
    null: dict[str, NullBand] = {}
    neighbours = None
    for suffix, (distance, options) in asked.items():
        arguments: dict[str, Any] = {"distance": distance, "options": options, "progress": progress, "path": path}
        theirs = pairwise(compared, **arguments)
        for draw, clouds in enumerate(sets):
            own, cross = pairwise(clouds, **arguments), pairwise(clouds, compared, **arguments)
            failed[draw] = failed[draw] | cross_distances(cross).failed.to(failed[draw].device)
            _append(values, suffix, own, theirs, cross)
            if draw == 0:
                bands = null_band(own, theirs, cross, permutations=permutations, seed=seed)
                null.update(zip(_nna_keys(suffix), bands, strict=True))
                neighbours = neighbours or Neighbours(clouds.cpu(), compared.cpu(), cross.cpu(), suffix)
        for clouds in trained:
            _append(
                train_values, suffix, pairwise(clouds, **arguments), theirs, pairwise(clouds, compared, **arguments)
            )
    values["jsd"] = _divergences(sets, compared, grid)
    if trained:
        train_values["jsd"] = _divergences(trained, compared, grid)

    protocol = Protocol(
        data=data,
        sha256=sha256,
        split=split,
        num_clouds=count,
        num_points=points,
        point_dim=references.shape[-1],
        normalization=normalization,
        units=units,
        distances={suffix: {"distance": distance, **options} for suffix, (distance, options) in asked.items()},
        grid={"resolution": grid.resolution, "low": list(grid.low), "high": list(grid.high)},
        permutations=permutations,
        seeds=tuple(range(seed, seed + len(sets))),
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


def _resolve(distances: Distances) -> dict[str, tuple[str, dict[str, Any]]]:
    """For each suffix the distance and all of its options, those that were not given at their defaults."""
    if isinstance(distances, str):
        raise TypeError(f"distances: expected a sequence of names or a mapping, got the word {distances!r}")
    if not distances:
        raise ValueError(f"distances: expected at least one of {', '.join(map(repr, DISTANCES))}")
    if isinstance(distances, Mapping):
        asked = {suffix: (distance, dict(options)) for suffix, (distance, options) in distances.items()}
    else:
        for distance in distances:
            check_choice(distance, tuple(DISTANCES), "distances")
        asked = {SUFFIXES[distance]: (distance, {}) for distance in distances}
    for suffix, (distance, options) in asked.items():
        check_choice(distance, tuple(DISTANCES), f"distances[{suffix!r}]")
        asked[suffix] = (distance, DISTANCES[distance].options(options, distance))
    return asked


def _require_finite(clouds: Tensor, name: str) -> None:
    failed = failed_clouds(clouds).nonzero().flatten().tolist()
    if failed:
        raise ValueError(
            f"{name}: {len(failed)} of {len(clouds)} clouds have coordinates that are not finite, the first is number "
            f"{failed[0]}; only samples may fail"
        )


def _training_sets(clouds: Tensor, draws: int, count: int, points: int, seed: int) -> list[Tensor]:
    if clouds.shape[:2] == (count, points):
        draws = 1
    some = [choose_clouds(clouds, count, "train", seed, f"training draw {k}") for k in range(draws)]
    return [choose_points(part, points, "train", seed, f"training draw {k}") for k, part in enumerate(some)]


def _nna_keys(suffix: str) -> tuple[str, str, str]:
    return f"1-nna-{suffix}", f"1-nna-{suffix}-ref", f"1-nna-{suffix}-smp"


def _append(values: dict[str, list[float]], suffix: str, own: Tensor, theirs: Tensor, cross: Tensor) -> None:
    accuracies = one_nearest_neighbour(own, theirs, cross)
    found = dict(zip(_nna_keys(suffix), accuracies, strict=True))
    found[f"cov-{suffix}"] = coverage(cross)
    found[f"mmd-{suffix}"] = minimum_matching_distance(cross)
    found[f"spread-{suffix}"] = spread(own, theirs)
    for key, value in found.items():
        values.setdefault(key, []).append(value)


def _divergences(sets: list[Tensor], references: Tensor, grid: Grid) -> list[float]:
    bounds = (grid.low, grid.high)
    return [jensen_shannon(clouds, references, resolution=grid.resolution, bounds=bounds) for clouds in sets]
