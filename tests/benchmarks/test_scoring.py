"""The set metrics of the comparison, by brute force."""

from __future__ import annotations

import math

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


@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_the_matrix_is_that_of_search_trees(shift, monkeypatch):
    monkeypatch.setattr(scoring, "AT_ONCE", 200)
    torch.manual_seed(0)
    x, y = shift + torch.randn(5, 20, 3), shift + torch.randn(4, 15, 3)
    np.testing.assert_allclose(scoring.chamfer_matrix(x, y).numpy(), matrix(x, y), rtol=1e-5)


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
    samples, references = torch.randn(6, 50, 3), torch.randn(6, 50, 3)
    points = references.reshape(-1, 3).numpy()
    edges = [
        np.linspace(low, high, scoring.RESOLUTION + 1) for low, high in zip(points.min(0), points.max(0), strict=True)
    ]
    inside = samples.reshape(-1, 3).numpy().clip(points.min(0), points.max(0))
    p, q = (np.histogramdd(part, bins=edges)[0].ravel() for part in (inside, points))
    got = scoring.jensen_shannon(samples, references)
    assert got == pytest.approx(jensenshannon(p, q) ** 2, abs=5e-3)
    assert scoring.jensen_shannon(references, references) == 0
    assert scoring.jensen_shannon(references + 100, references) == pytest.approx(math.log(2), abs=0.05)


def test_what_has_no_score_is_refused():
    clouds = torch.randn(3, 10, 3)
    with pytest.raises(ValueError, match="as many references"):
        scoring.score(clouds, clouds[:2])
    with pytest.raises(ValueError, match="at least two"):
        scoring.score(clouds[:1], clouds[:1])
    bad = clouds.clone()
    bad[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        scoring.score(bad, clouds)
