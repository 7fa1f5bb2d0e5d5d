"""The known answer that the other tests lean on, against a numerical integral."""

from __future__ import annotations

import torch

from helpers.conjugate import make_conjugate


def test_posterior_and_evidence_against_a_grid():
    known = make_conjugate(context_dim=1)
    torch.manual_seed(1)
    context = torch.tensor([0.7], dtype=torch.float64)
    cloud = known.flow.cloud(context, num_points=5).sample()
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64).unsqueeze(-1)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(grid.squeeze(-1))
    log_joint = prior + known.flow.cloud(grid, num_points=5).log_prob(cloud)
    step = grid[1, 0] - grid[0, 0]
    evidence = log_joint.logsumexp(0) + step.log()
    weights = (log_joint - log_joint.logsumexp(0)).exp()
    mean = (weights * grid.squeeze(-1)).sum()
    variance = (weights * (grid.squeeze(-1) - mean).square()).sum()

    posterior = known.posterior(cloud)
    torch.testing.assert_close(known.log_evidence(cloud), evidence, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(posterior.mean.squeeze(), mean, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(posterior.variance.squeeze(), variance, rtol=1e-7, atol=1e-7)
    # The couplings must be worth something, or the tests would be about a normal distribution.
    log_det = known.flow.transform.condition(context).inverse_and_log_det(cloud)[1]
    assert log_det.std() > 0.05
