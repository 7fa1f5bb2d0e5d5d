"""Mixtures of points: flows with parts, and things before a background."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.distributions import MixtureOfFlows, PointMixture, with_background
from pyro_pcflow.distributions.mixture import coupled_labels


def normals(*locs):
    return [dist.Normal(torch.full((3,), float(loc), dtype=torch.float64), 1.0).to_event(1) for loc in locs]


def test_density_is_torchs_mixture_of_one_family():
    logits, locs = torch.randn(3).double(), [0.0, 1.0, 4.0]
    got = PointMixture(logits, normals(*locs))
    stacked = dist.Normal(torch.tensor(locs).double()[:, None].expand(3, 3), 1.0).to_event(1)
    expected = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=logits), stacked)
    points = 3 * torch.randn(50, 3, dtype=torch.float64)
    torch.testing.assert_close(got.log_prob(points), expected.log_prob(points))


@pytest.mark.parametrize("at_once", [7, 2**24])
def test_coupled_labels_have_the_weights_and_change_little(at_once, monkeypatch):
    """Frequencies within 4 standard errors, and labels that differ at no more than twice the rate that they must."""
    monkeypatch.setattr("pyro_pcflow.distributions.mixture.RACED_AT_ONCE", at_once)
    weights = torch.tensor([[0.2, 0.3, 0.1, 0.4], [0.25, 0.28, 0.12, 0.35]], dtype=torch.float64)
    count, labels = 5000, []
    for own in weights:
        torch.manual_seed(0)
        with coupled_labels():
            labels.append(PointMixture(own.log(), normals(0, 1, 2, 3)).sample_with_labels((count,))[1])
    for own, drawn in zip(weights, labels, strict=True):
        frequency = torch.bincount(drawn, minlength=4) / count
        assert ((frequency - own).abs() < 4 * (own * (1 - own) / count).sqrt()).all()
    distance = (weights[0] - weights[1]).abs().sum() / 2
    differ = (labels[0] != labels[1]).double().mean()
    assert differ < 2 * distance / (1 + distance) + 4 * (2 * distance / count).sqrt()


def test_coupled_labels_of_one_draw_and_of_none():
    mixture = PointMixture(torch.tensor([1e-30, 1.0]).double().log(), normals(0, 1))
    with coupled_labels():
        assert mixture.sample_with_labels()[1].item() == 1
        assert mixture.expand((2, 3)).sample_with_labels((4,))[1].tolist() == [[[1] * 3] * 2] * 4
        assert mixture.sample((0,)).shape == (0, 3)


def test_components_of_different_batch_shapes():
    near, far = normals(0, 3)
    mixture = PointMixture(torch.tensor([0.5, 0.5]).double().log(), [near.expand((4,)), far])
    points = torch.randn(6, 1, 3).double()
    assert mixture.batch_shape == (4,)
    assert mixture.sample((2,)).shape == (2, 4, 3)
    joint = torch.stack([near.log_prob(points), far.log_prob(points)], -1).expand(6, 4, 2)
    torch.testing.assert_close(mixture.responsibilities(points), joint.softmax(-1))
    torch.testing.assert_close(mixture.log_prob(points), joint.logsumexp(-1) - torch.tensor(2.0).double().log())


def test_draws_come_from_the_density():
    """Frequencies of labels, and E_p[q / p] = 1."""
    mixture = PointMixture(torch.tensor([0.5, 0.3, 0.2]).double().log(), normals(0, 1, 4))
    points, labels = mixture.sample_with_labels((100_000,))
    frequencies = labels.bincount() / 100_000
    assert ((frequencies - mixture.logits.exp()).abs() < 4 * (0.25 / 100_000) ** 0.5).all()
    for label, loc in enumerate([0.0, 1.0, 4.0]):
        assert (points[labels == label].mean(0) - loc).abs().max() < 4 / (labels == label).sum().sqrt()
    ratio = (normals(1.2)[0].log_prob(points) - mixture.log_prob(points)).exp()
    assert (ratio.mean() - 1).abs() < 4 * ratio.std() / 100_000**0.5


def test_background_by_hand():
    thing = normals(0)[0]
    low, high = torch.tensor([-2.0, -2.0, -1.0]).double(), torch.tensor([2.0, 2.0, 3.0]).double()
    outlier = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    scan = with_background(thing, outlier, low, high)
    inside, outside = torch.zeros(3).double(), torch.full((3,), 2.5).double()
    expected = (0.8 * thing.log_prob(inside).exp() + 0.2 / 64).log()
    torch.testing.assert_close(scan.log_prob(inside), expected.detach(), check_dtype=False)
    torch.testing.assert_close(scan.log_prob(outside), thing.log_prob(outside) + torch.tensor(0.8).double().log())
    responsibility = scan.responsibilities(torch.stack([inside, outside]))[:, 1]
    torch.testing.assert_close(responsibility[0], (0.2 / 64 / expected.exp()).detach(), check_dtype=False)
    assert responsibility[1] == 0
    (gradient,) = torch.autograd.grad(scan.log_prob(torch.stack([inside, outside])).sum(), outlier)
    by_hand = (1 / 64 - thing.log_prob(inside).exp()) / expected.exp() - 1 / 0.8
    torch.testing.assert_close(gradient, by_hand.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_box_of_a_scan_holds_its_outermost_points(dtype):
    scan = torch.randn(50, 3, dtype=dtype)
    low, high = scan.amin(0), scan.amax(0)
    nowhere = dist.Normal(torch.full((3,), 100.0, dtype=dtype), 0.1).to_event(1)
    density = with_background(nowhere, 0.5, low, high).log_prob(scan)
    torch.testing.assert_close(density, (0.5 / (high - low).prod()).log().expand(50))


def test_unknown_outlier_probability_has_its_exact_posterior():
    """Against a numerical integral; probabilities in a batch."""
    thing = normals(0)[0]
    points = torch.cat([0.3 * torch.randn(20, 3), 4 * torch.rand(5, 3) - 2]).double()
    outlier = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    low, high = torch.full((3,), -2.0).double(), torch.full((3,), 2.0).double()
    log_joint = pcf.PointCloud(with_background(thing, outlier, low, high), num_points=25).log_prob(points)
    likelihoods = torch.stack([thing.log_prob(points).exp(), torch.full((25,), 1 / 64).double()])
    by_hand = ((1 - outlier)[:, None] * likelihoods[0] + outlier[:, None] * likelihoods[1]).log().sum(-1)
    torch.testing.assert_close(log_joint, by_hand)


def test_wrong_mixtures():
    with pytest.raises(TypeError, match="got int"):
        PointMixture(torch.zeros(2), [*normals(0), 3])
    with pytest.raises(ValueError, match="one event shape"):
        PointMixture(torch.zeros(2), [*normals(0), dist.Normal(torch.zeros(2), 1.0).to_event(1)])
    with pytest.raises(ValueError, match="one per component"):
        PointMixture(torch.zeros(3), normals(0, 1))
    with pytest.raises(ValueError, match="at least one component"):
        PointMixture(torch.zeros(0), [])
    with pytest.raises(ValueError, match="do not broadcast"):
        PointMixture(torch.zeros(4, 2), [*normals(0), normals(1)[0].expand((5,))])
    with pytest.raises(ValueError, match="in \\(0, 1\\)"):
        with_background(normals(0)[0], 1.5, torch.zeros(3), torch.ones(3))
    with pytest.raises(ValueError, match="low < high"):
        with_background(normals(0)[0], 0.5, torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match="num_flows"):
        MixtureOfFlows(0)
    with pytest.raises(ValueError, match=r"NaN|support"):
        PointMixture(torch.zeros(2), normals(0, 1)).log_prob(torch.full((3,), float("nan")))
    with pytest.raises(ValueError, match="finite points"):
        PointMixture(torch.zeros(2), normals(0, 1)).responsibilities(torch.full((3,), torch.inf))
