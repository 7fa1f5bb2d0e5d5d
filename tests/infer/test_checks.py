"""What complete says of its own results, and the shares of points in regions that it says it by."""

from __future__ import annotations

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.distributions import one_sided
from pyro_pcflow.infer.checks import check_draws, region_share

FRONT = torch.tensor([1.0, 0.0, 0.0])


def density(loc=0.0, scale=1.0):
    return dist.Normal(torch.as_tensor(loc).expand(3), scale).to_event(1)


def check(points, seen=None, whole=None, **options):
    """What is said of a cloud, of sixteen draws of a posterior that is a standard normal each."""
    densities = seen or [density()] * 16
    found = {"prior": torch.zeros(()), "r_hat": torch.ones(()), "any_part": False, **options}
    mask = torch.ones(points.shape[:-1], dtype=torch.bool)
    return check_draws(densities, whole or densities, points, mask, **found)


def test_shares_of_a_normal_in_closed_form():
    """The 90% region of a normal in space is a ball, whatever the number of draws that say the same."""
    torch.manual_seed(0)
    radii = torch.linspace(0, 4, 400)
    points = torch.nn.functional.normalize(torch.randn(400, 3), dim=-1) * radii.unsqueeze(-1)
    share = region_share([density()] * 200, points, torch.ones(400, dtype=torch.bool), 0.9)
    radius = torch.tensor(6.2514).sqrt()  # of the chi-square distribution with 3 degrees of freedom
    # The quantile of 6400 heights has a standard error of 0.4%, which is 0.01 of the radius.
    assert abs(float(share) - float((radii < radius).float().mean())) < 0.015


def test_what_the_model_made_passes():
    """A threshold of one in a thousand lets twenty clouds pass."""
    torch.manual_seed(0)
    found = check(torch.randn(20, 200, 3))
    assert found
    assert found.passed.all()
    assert found.messages == ()
    assert (found.strange < 0.05).all()
    # The 1% quantile of 64 replicates lies between the first and the second of them, and one more lies below it in
    # (0.01 * 63 + 1) of 65 cases.
    assert abs(found.missed.mean() - 1.63 / 65) < 0.01
    assert found.missing.abs().max() < 0.2
    assert (found.ratio - 1).abs().max() < 0.2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found.warn()


@pytest.mark.parametrize(
    ("change", "options", "reason"),
    [
        (lambda x: 10 * x, {}, "other units"),
        (lambda x: x + 3, {}, "another pose"),
        (lambda x: torch.cat([x[:180], x[180:] + 6]), {}, "outliers"),
        (lambda x: x[x[:, 0] > 0], {}, "does not see"),
        (lambda x: x, {"prior": torch.tensor(-9.0)}, "prior has next to never"),
        (lambda x: x, {"r_hat": torch.tensor(7.0)}, "chains that disagree"),
    ],
)
def test_each_trouble_has_its_reason(change, options, reason):
    torch.manual_seed(0)
    found = check(change(torch.randn(200, 3)), **options)
    assert not found
    with pytest.warns(UserWarning, match=reason) as caught:
        found.warn()
    assert len(caught) == 1


def test_a_part_is_no_trouble_where_the_sensor_is_known_or_any_part_will_do():
    torch.manual_seed(0)
    points = torch.randn(400, 3)
    half = points[points[:, 0] > 0]
    assert check(half, [one_sided(density(), FRONT)] * 16, [density()] * 16)
    found = check(half, any_part=True)
    assert found
    assert math.isnan(float(found.missing))


def test_few_points_are_not_doubted_for_one_that_is_strange():
    torch.manual_seed(0)
    points = 0.5 * torch.randn(15, 3)
    points[0] = 4.0
    found = check(points)
    assert found.strange > 0.03
    assert found.missed > 0.03
    assert found.passed


def test_a_sensor_that_sees_nothing_of_what_was_found():
    away = one_sided(density(-50.0), FRONT)
    assert float(check(torch.randn(20, 3), [away] * 16, [density()] * 16).strange) == 1


def test_draws_that_explain_a_point_each_explain_no_cloud():
    """Of two places, a draw has one: each point is explained by some draw, and the cloud by none."""
    torch.manual_seed(0)
    points = torch.randn(200, 3) + 5.0 * (torch.arange(200) % 2).unsqueeze(-1)
    found = check(points, [density(0.0), density(5.0)] * 8)
    assert found.strange < 0.05
    assert abs(found.missed - 0.5) < 0.05
    assert not found
    assert "another pose" in found.messages[0]


def test_empty_clouds_and_padding():
    torch.manual_seed(0)
    points = torch.randn(2, 200, 3)
    points[0] = torch.nan
    mask = torch.tensor([False, True]).unsqueeze(-1).expand(2, 200)
    points = torch.where(mask.unsqueeze(-1), points, 0.0)
    found = check_draws(
        [density()] * 16, [density()] * 16, points, mask, prior=torch.zeros(2), r_hat=None, any_part=False
    )
    assert found.passed.all()


def shapes():
    """A ball of unknown place."""
    loc = pyro.sample("loc", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    return dist.Normal(loc, 0.1).to_event(1)


def test_complete_warns_once_and_keeps_what_it_said():
    pyro.set_rng_seed(0)
    good = dist.Normal(torch.ones(3), 0.1).to_event(1).sample((100,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = pcf.complete(shapes, good, 100, num_chains=8)
        assert result.check()
        silent = pcf.complete(shapes, 10 * good, 100, num_chains=8, check=False)
    with pytest.warns(UserWarning, match="may be wrong") as caught:
        result = pcf.complete(shapes, 10 * good, 100, num_chains=8)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert not result.check()
    with pytest.raises(ValueError, match="check=False"):
        silent.check()


def test_chains_that_have_nothing_to_disagree_on():
    """A new flow is the same whatever its context, so that r_hat is that of rounding errors."""
    pyro.set_rng_seed(1)
    flow = pcf.PointCloudFlow(point_dim=3, context_dim=2, num_couplings=2, hidden_dims=[8])
    for _ in range(5):
        result = pcf.complete(flow, torch.randn(50, 3), 50, num_samples=2, num_chains=8)
        assert result.check().r_hat == 1
