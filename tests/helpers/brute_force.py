"""Distances between clouds and set metrics by plain loops, and clouds to try them on."""

from __future__ import annotations

import itertools

import numpy as np
import torch

import pyro_pcflow as pcf


def distances(x, y):
    """All distances in float64, from differences."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return np.sqrt(((x[:, None] - y[None]) ** 2).sum(-1))


def chamfer_ways(x, y):
    table = distances(x, y)
    return table.min(1), table.min(0)


def emd_by_permutations(x, y, power=1):
    """Every matching of a few points."""
    table = distances(x, y) ** power
    rows = np.arange(len(table))
    return min(table[rows, list(order)].mean() for order in itertools.permutations(rows))


def approximate_matching(x, y, last=-2):
    """The published algorithm, point by point, in float64; PointFlow's ends with the power -1."""
    num = len(x)
    left, right = np.ones(num), np.ones(num)
    match = np.zeros((num, num))
    squared = distances(x, y) ** 2
    for power in range(7, last - 1, -1):
        level = 0.0 if power == -2 else -(4.0**power)
        weight = np.exp(level * squared)
        share, taken = np.zeros(num), np.zeros(num)
        for k in range(num):
            share[k] = left[k] / (1e-9 + sum(weight[k, m] * right[m] for m in range(num)))
        for m in range(num):
            offered = right[m] * sum(weight[k, m] * share[k] for k in range(num))
            taken[m] = min(right[m] / (offered + 1e-9), 1.0) * right[m]
            right[m] = max(0.0, right[m] - offered)
        for k in range(num):
            handed = weight[k] * share[k] * taken
            match[k] += handed
            left[k] = max(0.0, left[k] - handed.sum())
    return match


def degenerate_pairs():
    """Pairs of clouds that have gone wrong elsewhere, of equal numbers of points."""
    rng = np.random.default_rng(3)
    line = np.linspace(0, 1, 12)[:, None] * np.array([[1.0, -2.0, 0.5]])
    cloud = rng.normal(size=(12, 3))
    return {
        "random": (cloud, rng.normal(size=(12, 3))),
        "one point": (cloud[:1], cloud[1:2]),
        "duplicates": (np.repeat(cloud[:3], 4, 0), np.repeat(cloud[3:9], 2, 0)),
        "all the same": (np.zeros((12, 3)), np.ones((12, 3))),
        "collinear": (line, line[::-1] + 0.01),
        "far away": (cloud + 1e4, cloud + 1e4 + 1e-3 * rng.normal(size=(12, 3))),
        "equal": (cloud, cloud.copy()),
        "equal, shuffled": (cloud, cloud[::-1].copy()),
        "one coordinate": (cloud[:, :1], rng.normal(size=(12, 1))),
        "seven coordinates": (rng.normal(size=(12, 7)), rng.normal(size=(12, 7))),
    }


def real_clouds(num_clouds, num_points, split="test"):
    return pcf.data.load_example("body", num_points=num_points, split=split)[:num_clouds]


def padded(clouds, width, generator, rubbish=torch.nan):
    """Clouds of several sizes in one tensor: shuffled in among rubbish, and a mask."""
    dim = clouds[0].shape[1]
    tensor = torch.full((len(clouds), width, dim), rubbish, dtype=torch.float64)
    mask = torch.zeros(len(clouds), width, dtype=torch.bool)
    for row, cloud in enumerate(clouds):
        places = torch.from_numpy(generator.permutation(width)[: len(cloud)])
        tensor[row, places] = torch.as_tensor(cloud, dtype=torch.float64)
        mask[row, places] = True
    return tensor, mask


def knn_accuracies(samples_samples, references_references, samples_references):
    """1-NNA with both halves by its definition; a tie between both sets counts one half."""
    num_samples, num_references = samples_references.shape
    clouds = [("r", i) for i in range(num_references)] + [("s", i) for i in range(num_samples)]

    def distance(a, b):
        if a[0] == b[0]:
            return float((references_references if a[0] == "r" else samples_samples)[a[1], b[1]])
        sample, reference = (a, b) if a[0] == "s" else (b, a)
        return float(samples_references[sample[1], reference[1]])

    score = {"r": 0.0, "s": 0.0}
    for cloud in clouds:
        others = [(distance(cloud, other), other[0]) for other in clouds if other != cloud]
        nearest = min(value for value, _ in others)
        kinds = {kind for value, kind in others if value == nearest}
        score[cloud[0]] += (cloud[0] in kinds) / len(kinds)
    total = (score["r"] + score["s"]) / len(clouds)
    return total, score["r"] / num_references, score["s"] / num_samples


def matrices(samples, references):
    """Distances within two sets of points and between them: metrics of sets see nothing else."""
    return torch.cdist(samples, samples), torch.cdist(references, references), torch.cdist(samples, references)


def two_sets(num_samples, num_references, seed, ties):
    """Points of two sets, on a coarse grid where there are to be ties."""
    generator = torch.Generator().manual_seed(seed)
    counts = num_samples, num_references
    if ties:
        return [torch.randint(0, 3, (count, 2), generator=generator).double() for count in counts]
    return [torch.randn(count, 2, generator=generator, dtype=torch.float64) for count in counts]


def assert_a_nan_stays_in_its_pair(functions, bad):
    """The value of a pair with a bad coordinate is NaN, and those of the others are as without it."""
    x = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y = x.flip(1) + 0.1
    broken = x.clone()
    broken[1, 3, 0] = bad
    for function in functions:
        for values, whole in ((function(broken, y), function(x, y)), (function(y, broken), function(y, x))):
            assert values.isnan().tolist() == [False, True, False]
            torch.testing.assert_close(values[[0, 2]], whole[[0, 2]])
    return broken, y
