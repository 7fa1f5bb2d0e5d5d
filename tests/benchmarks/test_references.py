"""The rivals are densities too: a reference with a wrong log-determinant would be no reference."""

from __future__ import annotations

import math

import pytest
import torch

import pyro_pcflow as pcf
from benchmarks import conditioning, density
from benchmarks.references import GaussianReference, PyroStack


def test_gaussian_is_its_closed_form():
    points = torch.randn(2000, 3) @ torch.diag(torch.tensor([1.0, 2.0, 0.5])) + 3
    reference = GaussianReference(points, noise=0.1)
    covariance = torch.cov(points.double().T) + 0.01 * torch.eye(3)
    centred = points.double() - points.double().mean(0)
    mahalanobis = (centred @ torch.linalg.inv(covariance) * centred).sum(-1)
    expected = -0.5 * (mahalanobis + torch.logdet(covariance) + 3 * math.log(2 * math.pi))
    torch.testing.assert_close(reference.log_prob(points), expected)


def test_pyros_stack_has_the_density_that_autograd_computes():
    torch.manual_seed(0)
    stack = PyroStack(3, num_couplings=4, hidden_dims=[8]).double()
    stack.normalize(5 + 3 * torch.randn(100, 3, dtype=torch.float64))
    transforms = stack.condition().transforms

    def to_noise(point):
        for transform in reversed(transforms):
            point = transform.inv(point)
        return point

    point = 5 + 3 * torch.randn(3, dtype=torch.float64)
    _, log_det = torch.linalg.slogdet(torch.autograd.functional.jacobian(to_noise, point))
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(to_noise(point)).sum() + log_det
    torch.testing.assert_close(stack.log_prob(point), expected, rtol=1e-8, atol=1e-8)


def test_pyros_stack_has_the_one_unit_of_our_flow():
    points = 5 + torch.randn(500, 3) * torch.tensor([1.0, 2.0, 0.5])
    stack, ours = PyroStack(3, num_couplings=1, hidden_dims=[8]), pcf.PointCloudFlow(3, num_couplings=1)
    stack.normalize(points)
    ours.normalize(points)
    torch.testing.assert_close(stack.loc, ours.units.loc)
    torch.testing.assert_close(stack.scale, ours.units.scale.expand(3))


@pytest.mark.slow
def test_density_benchmark_prints_its_table(monkeypatch, capsys):
    from pyro_pcflow.data import example_path

    monkeypatch.setattr("sys.argv", ["density", str(example_path("spot")), "--seconds", "0.5", "--seeds", "2"])
    density.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[-1].startswith("| spot | ")
    assert lines[-1].count("|") == lines[0].count("|")


@pytest.mark.slow
def test_conditioning_benchmark_prints_its_table(monkeypatch, capsys, tmp_path):
    import numpy as np

    np.savez(
        tmp_path / "a.npz", points=np.random.default_rng(0).normal(size=(6, 300, 3)).astype("f4"), split=["train"] * 6
    )
    monkeypatch.setattr("sys.argv", ["conditioning", str(tmp_path / "a.npz"), "--seconds", "0.5", "--seeds", "1"])
    conditioning.main()
    assert len(capsys.readouterr().out.splitlines()) == 5
