"""The set metrics of the comparison, by brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.spatial.distance import jensenshannon

from benchmarks import scoring


def chamfer(x, y):
    there, back = cKDTree(y).query(x)[0], cKDTree(x).query(y)[0]
    return np.square(there).mean() + np.square(back).mean()


def matrix(x, y):
    return np.array([[chamfer(a, b) for b in y.double().numpy()] for a in x.double().numpy()])


def test_scores_are_those_of_their_definitions():
    torch.manual_seed(0)
    samples, references = 0.3 + torch.randn(7, 30, 3), torch.randn(7, 30, 3)
    got = scoring.score(samples, references)
    between = matrix(samples, references)
    everything = matrix(*2 * (torch.cat([samples, references]),))
    own = []
    for i in range(14):
        others = [j for j in range(14) if j != i]
        own.append((min(others, key=lambda j: everything[i, j]) < 7) == (i < 7))
    pairs = [(i, j) for i in range(7) for j in range(7) if i != j]
    expected = {
        "1-nna-cd": np.mean(own),
        "1-nna-cd-ref": np.mean(own[7:]),
        "1-nna-cd-smp": np.mean(own[:7]),
        "cov-cd": len({int(row.argmin()) for row in between}) / 7,
        "mmd-cd": np.mean([column.min() for column in between.T]),
        "spread-cd": np.mean([everything[i, j] for i, j in pairs])
        / np.mean([everything[7 + i, 7 + j] for i, j in pairs]),
    }
    for key, value in expected.items():
        assert got[key] == pytest.approx(value, rel=1e-5), key


def test_jsd_is_scipys_on_numpys_histograms():
    torch.manual_seed(0)
    samples, references = torch.randn(6, 50, 3).double(), torch.randn(6, 50, 3).double()
    points = references.reshape(-1, 3).numpy()
    middle, half = (points.min(0) + points.max(0)) / 2, np.ptp(points, axis=0).max() / 2
    edges = [np.linspace(m - half, m + half, 29) for m in middle]
    inside = samples.reshape(-1, 3).numpy().clip(middle - half, middle + half)
    p, q = (np.histogramdd(part, bins=edges)[0].ravel() for part in (inside, points))
    assert scoring.score(samples, references)["jsd"] == pytest.approx(jensenshannon(p, q, base=2) ** 2, abs=1e-6)


def test_a_matrix_that_is_known_is_not_computed_again():
    torch.manual_seed(0)
    samples, references = torch.randn(5, 20, 3), torch.randn(5, 20, 3)
    known = scoring.pairwise(references)
    assert scoring.score(samples, references, known) == scoring.score(samples, references)
    assert scoring.score(samples, references, 2 * known)["spread-cd"] != scoring.score(samples, references)["spread-cd"]


def test_a_sample_that_is_not_finite_counts_against_the_model():
    torch.manual_seed(0)
    samples, references = torch.randn(5, 20, 3), torch.randn(5, 20, 3)
    broken = samples.clone()
    broken[0, 0, 0] = torch.nan
    good, bad = scoring.score(samples, references), scoring.score(broken, references)
    assert bad["1-nna-cd-smp"] >= 0.2
    assert bad["cov-cd"] <= good["cov-cd"]
    # The spread is that of the others.
    others, real = scoring.pairwise(samples[1:]), scoring.pairwise(references)
    assert bad["spread-cd"] == pytest.approx(float(others.sum() / 12 / (real.sum() / 20)))


def test_what_has_no_score_is_refused():
    clouds = torch.randn(3, 10, 3)
    with pytest.raises(ValueError, match="as many references"):
        scoring.score(clouds, clouds[:2])
    with pytest.raises(ValueError, match="at least two"):
        scoring.score(clouds[:1], clouds[:1])
