"""Matrices of distances: every entry, their memory, and what is kept on disk."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.brute_force import padded
from pyro_pcflow.kernels.cpu import clouds as kernel
from pyro_pcflow.metrics import approximate_emd, chamfer, emd, hausdorff, matrices, pairwise, sinkhorn
from pyro_pcflow.metrics.distances import DISTANCES

CASES = {
    "chamfer": (chamfer, {}),
    "chamfer, by name": (chamfer, {"convention": "distance_max"}),
    "chamfer, sums": (chamfer, {"convention": "squared_total"}),
    "hausdorff": (hausdorff, {}),
    "emd": (emd, {"cost": "squared"}),
    "approximate_emd": (approximate_emd, {"variant": "pvd"}),
    "sinkhorn": (sinkhorn, {"epsilon": 0.1, "iterations": 5}),
    "sinkhorn, debiased": (sinkhorn, {"epsilon": 0.1, "iterations": 5, "debiased": True}),
}


@pytest.fixture(params=["compiled", "scipy"])
def _search(request, monkeypatch):
    """With the compiled kernel, and as where there is no compiler."""
    if request.param == "scipy":
        monkeypatch.setattr(kernel, "available", lambda: False)
    elif not kernel.available():
        pytest.skip("no C++ compiler")


@pytest.mark.usefixtures("_search")
@pytest.mark.parametrize("case", CASES)
def test_every_entry(case, bodies):
    function, options = CASES[case]
    x, y = bodies.split([4, 7])
    matrix = pairwise(x, y, function.__name__, options=options)
    assert matrix.dtype == torch.float64
    torch.testing.assert_close(matrix, function(x[:, None], y, **options), rtol=1e-10, atol=1e-14)
    within = pairwise(x, None, function.__name__, options=options)
    torch.testing.assert_close(within, function(x[:, None], x, **options), rtol=1e-10, atol=1e-14)
    if DISTANCES[function.__name__].symmetric:
        assert torch.equal(within, within.mT)
        assert (within.diagonal() == 0).all()


@pytest.mark.usefixtures("_search")
@pytest.mark.parametrize("case", CASES)
def test_memory_and_threads_change_nothing(case, bodies, monkeypatch):
    function, options = CASES[case]
    x = bodies.float()
    whole = pairwise(x, distance=function.__name__, options=options)
    monkeypatch.setattr(matrices, "_ROWS_OF_NEAREST", 3)
    for megabytes, threads in [(0.15, 1), (0.25, 2), (0.4, 1)]:
        matrix = pairwise(x, distance=function.__name__, options=options, max_memory_mb=megabytes, num_threads=threads)
        torch.testing.assert_close(matrix, whole, rtol=1e-5, atol=1e-9)
    with pytest.raises(ValueError, match=r"max_memory_mb: .*give .* or more"):
        pairwise(x, distance=function.__name__, options=options, max_memory_mb=0.001)


@pytest.mark.usefixtures("_search")
@pytest.mark.parametrize("case", CASES)
def test_masks_and_nan_clouds(case):
    function, options = CASES[case]
    rng = np.random.default_rng(8)
    equal = function in (emd, approximate_emd)
    x, x_mask = padded([rng.normal(size=(6 if equal else n, 2)) for n in (5, 7, 6)], 9, rng)
    y, y_mask = padded([rng.normal(size=(6 if equal else n, 2)) for n in (3, 8, 6, 1)], 8, rng)
    expected = function(x[:, None], y, x_mask=x_mask[:, None], y_mask=y_mask, **options)
    masks = {"x_mask": x_mask, "y_mask": y_mask}
    matrix = pairwise(x, y, function.__name__, options=options, **masks)
    torch.testing.assert_close(matrix, expected)
    assert matrix.isfinite().all()
    x[1, x_mask[1].nonzero()[2]] = torch.nan
    y[2, y_mask[2].nonzero()[0], 1] = torch.inf
    expected[1] = torch.nan
    expected[:, 2] = torch.nan
    matrix = pairwise(x, y, function.__name__, options=options, **masks)
    torch.testing.assert_close(matrix, expected, equal_nan=True)
    within = pairwise(x, distance=function.__name__, options=options, x_mask=x_mask)
    assert within.isnan().tolist() == [[False, True, False], [True, True, True], [False, True, False]]


def test_all_clouds_may_be_nan():
    x = torch.full((2, 3, 3), torch.nan)
    assert pairwise(x).isnan().all()
    assert pairwise(x, torch.zeros(4, 5, 3)).isnan().all()


class Interrupted(Exception):
    """The user lost patience."""


@pytest.mark.parametrize("case", ["chamfer", "emd", "approximate_emd"])
@pytest.mark.parametrize("both", [True, False])
def test_resume_after_an_interruption(case, both, bodies, tmp_path, monkeypatch):
    function, options = CASES[case]
    x, y = bodies, bodies.flip(0)[:6] if both else None
    monkeypatch.setattr(matrices, "_ROWS_OF_NEAREST", 2)
    expected = pairwise(x, y, function.__name__, options=options)
    write, written = matrices.RowStore.write, []

    def fail_later(store, rows, values):
        if len(written) == 3:
            raise Interrupted
        write(store, rows, values)
        written.append(rows)

    monkeypatch.setattr(matrices.RowStore, "write", fail_later)
    with pytest.raises(Interrupted):
        pairwise(x, y, function.__name__, options=options, path=tmp_path)
    finished = sum(rows.stop - rows.start for rows in written)
    computed = []
    monkeypatch.setattr(matrices.RowStore, "write", lambda *args: (computed.append(args[1]), write(*args))[1])
    # Another size of blocks goes on from the same rows.
    monkeypatch.setattr(matrices, "_ROWS_OF_NEAREST", 3)
    resumed = pairwise(x, y, function.__name__, options=options, path=tmp_path)
    assert torch.equal(resumed, expected)
    assert sum(rows.stop - rows.start for rows in computed) == len(x) - finished
    computed.clear()
    assert torch.equal(pairwise(x, y, function.__name__, options=options, path=tmp_path), expected)
    assert not computed


def test_progress_counts_pairs(bodies, capsys):
    pairwise(bodies, bodies[:3], progress=True)
    shown = capsys.readouterr().err
    assert "33/33" in shown
    pairwise(bodies, progress=True)
    assert "66/66" in capsys.readouterr().err
    pairwise(bodies)
    assert capsys.readouterr().err == ""


def test_gradients_are_not_recorded(bodies):
    assert not pairwise(bodies.clone().requires_grad_(), distance="approximate_emd").requires_grad


def test_wrong_input_is_explained():
    x = torch.zeros(3, 4, 2)
    there = torch.ones(3, 4, dtype=torch.bool)
    cases = [
        ("distance: expected one of 'chamfer'", lambda: pairwise(x, distance="cd")),
        ("'chamfer' has no option 'norm', its options are", lambda: pairwise(x, options={"norm": 1})),
        ("'sinkhorn' needs a value for 'epsilon'", lambda: pairwise(x, distance="sinkhorn")),
        ("convention: expected one of", lambda: pairwise(x, options={"convention": "l2"})),
        (r"x: expected a set of clouds of shape \(S, N, D\)", lambda: pairwise(x[0])),
        (r"y: expected a set of clouds", lambda: pairwise(x, x[:0])),
        ("one dimension", lambda: pairwise(x, torch.zeros(3, 4, 3))),
        (
            "emd: expected clouds of one number of points, got 2 to 4",
            lambda: pairwise(x, x[:, :2], distance="emd"),
        ),
        (r"x_mask: expected shape \(3, 4\)", lambda: pairwise(x, x_mask=there[:2])),
        ("y_mask: expected none without y", lambda: pairwise(x, y_mask=there)),
        ("num_threads: expected", lambda: pairwise(x, num_threads=0)),
    ]
    for words, call in cases:
        with pytest.raises(ValueError, match=words):
            call()
