"""Coverage of intervals that are known."""

from __future__ import annotations

from types import SimpleNamespace

import pyro.distributions as dist
import torch
from torch.distributions import MultivariateNormal, TransformedDistribution, transforms

from benchmarks.evidence import coverage


def test_shares_of_true_latents_within_intervals():
    """Nine of ten of a posterior that is right, and as many as the normal distribution says of one half as wide."""
    torch.manual_seed(0)
    found = torch.randn(500, 4)
    latents = found + torch.randn(500, 4)
    refined = TransformedDistribution(
        MultivariateNormal(found / 2, 0.25 * torch.eye(4)), [transforms.AffineTransform(0.0, 2.0)]
    )
    model = SimpleNamespace(
        encode=lambda clouds, check: dist.Normal(found, 0.5).to_event(1), refine=lambda clouds: refined
    )
    line = coverage(model, torch.zeros(500, 7, 3), latents)
    points, clouds, encoded, refined = (part.strip() for part in line.strip("|").split("|"))
    assert (points, clouds) == ("7", "500")
    # The error of a share of 2000 numbers is less than 1.2%.
    assert abs(int(encoded.rstrip("%")) - 59) <= 4
    assert abs(int(refined.rstrip("%")) - 90) <= 3
