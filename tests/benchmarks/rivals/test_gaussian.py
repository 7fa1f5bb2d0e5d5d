"""The Gaussian is its closed form."""

from __future__ import annotations

import math

import torch

from benchmarks.rivals.gaussian import Gaussian


def test_gaussian_is_its_closed_form():
    points = torch.randn(2000, 3) @ torch.diag(torch.tensor([1.0, 2.0, 0.5])) + 3
    reference = Gaussian(points, noise=0.1)
    covariance = torch.cov(points.double().T) + 0.01 * torch.eye(3)
    centred = points.double() - points.double().mean(0)
    mahalanobis = (centred @ torch.linalg.inv(covariance) * centred).sum(-1)
    expected = -0.5 * (mahalanobis + torch.logdet(covariance) + 3 * math.log(2 * math.pi))
    torch.testing.assert_close(reference.log_prob(points), expected)
