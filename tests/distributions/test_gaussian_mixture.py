"""Mixtures of Gaussians, against torch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, TransformedDistribution

import pyro_pcflow as pcf
from pyro_pcflow import transforms
from pyro_pcflow.distributions import gaussian_mixture
from pyro_pcflow.distributions.gaussian_mixture import GaussianMixture, Gaussians

NAMES = ["logits", "loc", "inverse_scale_tril"]


def make_gaussians(batch=(), num_components=4, dim=3, width=0.3):
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*batch, num_components, *shape, generator=generator, dtype=torch.float64)

    factor = randn(dim, dim).tril(-1) + torch.diag_embed(randn(dim).mul(0.3).exp() / width)
    return Gaussians(randn(), randn(dim), factor)


def make_mixture(gaussians):
    *batch, num_components, dim = gaussians.loc.shape
    return GaussianMixture(
        lambda: gaussians, torch.Size(batch), num_components=num_components, point_dim=dim, validate_args=False
    )


def reference(gaussians):
    scale_tril = torch.linalg.inv(gaussians.inverse_scale_tril)
    return MixtureSameFamily(
        Categorical(logits=gaussians.logits),
        MultivariateNormal(gaussians.loc, scale_tril=scale_tril, validate_args=False),
        validate_args=False,
    )


@pytest.mark.parametrize("dim", [1, 2, 3, 6])
@pytest.mark.parametrize(
    ("batch", "points"), [((), (7,)), ((5,), (7, 5)), ((2, 1), (2, 9)), ((5,), ()), ((2, 5), (3, 1, 5)), ((), (0,))]
)
def test_values_of_torchs_own(batch, points, dim):
    gaussians = make_gaussians(batch, dim=dim)
    value = torch.randn(*points, dim).double()
    mixture = make_mixture(gaussians)
    torch.testing.assert_close(mixture.log_prob(value), reference(gaussians).log_prob(value))
    wide = mixture.expand((3, *torch.broadcast_shapes(batch, points))) if points else mixture.expand((3, *batch))
    expected = reference(gaussians).log_prob(value).expand(wide.batch_shape)
    torch.testing.assert_close(wide.log_prob(value), expected)
    joint = reference(gaussians)
    joint = joint.component_distribution.log_prob(value.unsqueeze(-2)) + joint.mixture_distribution.logits
    torch.testing.assert_close(mixture.responsibilities(value), joint.softmax(-1))


@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (1,), (2, 1)])
@pytest.mark.parametrize("masked", [False, True])
def test_statistics_are_scores(batch, masked, monkeypatch):
    """The derivatives of the log-density of some points in logits and means, by torch's own."""
    monkeypatch.setattr(gaussian_mixture, "STATISTICS_AT_ONCE", 60)  # several pieces
    gaussians = make_gaussians(batch)
    value = torch.randn(7, *batch, 3).double()
    mask = torch.rand(7, *batch) < 0.6 if masked else torch.ones(7, *batch, dtype=torch.bool)
    parameters = [part.clone().requires_grad_() for part in gaussians]
    log_prob = reference(Gaussians(*parameters)).log_prob(value).where(mask, 0.0).sum()
    of_logits, of_loc, _ = torch.autograd.grad(log_prob, parameters)
    if masked:
        value = value.where(mask.unsqueeze(-1), torch.nan)
    counts, offsets, weights = make_mixture(gaussians).statistics(value, mask if masked else None)
    torch.testing.assert_close(weights, gaussians.logits.softmax(-1))
    torch.testing.assert_close(counts - mask.sum(0).unsqueeze(-1) * weights, of_logits)
    torch.testing.assert_close((gaussians.inverse_scale_tril.mT @ offsets.unsqueeze(-1)).squeeze(-1), of_loc)


def test_derivatives_of_torchs_own():
    gaussians = make_gaussians((2, 1))
    sources = [*(part.requires_grad_() for part in gaussians), torch.randn(2, 5, 3).double().requires_grad_()]
    # Above the diagonal there is nothing, of which autograd knows nothing.
    weights = torch.randn(2, 5).double()
    first, second = [], []
    for log_prob in (make_mixture(gaussians).log_prob, reference(gaussians).log_prob):
        gradients = torch.autograd.grad((weights * log_prob(sources[-1])).sum(), sources, create_graph=True)
        gradients = [part.tril() if part.shape[-2:] == (3, 3) else part for part in gradients]
        first.append(gradients)
        norm = sum(part.square().sum() for part in gradients)
        again = torch.autograd.grad(norm, sources)
        second.append([part.tril() if part.shape[-2:] == (3, 3) else part for part in again])
    torch.testing.assert_close(first[0], first[1])
    torch.testing.assert_close(second[0], second[1])


def test_single_precision_at_narrow_widths():
    """Widths of a thousandth of the distance of the means from the origin, at which squares cancel in float32."""
    gaussians = make_gaussians(num_components=50, width=1e-3)
    narrow = Gaussians(*(part.float() for part in gaussians))
    points = make_mixture(narrow).sample((2000,))
    expected = reference(Gaussians(*(part.double() for part in narrow))).log_prob(points.double())
    torch.testing.assert_close(make_mixture(narrow).log_prob(points).double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("batch", [(), (2,)])
def test_moments_of_samples(batch):
    gaussians = make_gaussians(batch)
    torch.manual_seed(0)
    points, labels = make_mixture(gaussians).expand((2,)).sample_with_labels((100_000,))
    assert (points.shape, labels.shape) == ((100_000, 2, 3), (100_000, 2))
    expected = reference(gaussians)
    error = (points.mean(0) - expected.mean) / (expected.variance / len(points)).sqrt()
    assert error.abs().max() < 5
    torch.testing.assert_close(points.var(0), expected.variance.expand(2, 3), rtol=0.05, atol=0)
    shares = torch.stack([(labels == k).double().mean(0) for k in range(4)], -1)
    torch.testing.assert_close(shares, expected.mixture_distribution.probs.expand(2, 4), rtol=0, atol=0.01)
    # A component's points have its covariance.
    chosen = points[:, 1][labels[:, 1] == 1]
    covariance = expected.component_distribution.covariance_matrix.reshape(-1, 4, 3, 3)[-1, 1]
    torch.testing.assert_close(chosen.mT.cov(), covariance, rtol=0.1, atol=0.1 * covariance.diagonal().min().item())


def test_empty_samples():
    assert make_mixture(make_gaussians((2,))).sample((0,)).shape == (0, 2, 3)


def test_samples_carry_no_gradients():
    mixture = make_mixture(make_gaussians())
    assert not mixture.has_rsample
    with pytest.raises(NotImplementedError, match="call sample"):
        mixture.rsample()


@given(st.integers(0, 4), st.integers(1, 4), st.booleans(), st.integers(1, 3))
def test_every_cloud_has_its_mixture(points, clouds, points_first, num_components):
    """A batch of clouds and contexts scores as the clouds one by one."""
    gaussians = make_gaussians((clouds,), num_components)
    value = torch.randn(clouds, points, 3, generator=torch.Generator().manual_seed(1)).double()
    apart = [make_mixture(Gaussians(*(part[i] for part in gaussians))).log_prob(cloud) for i, cloud in enumerate(value)]
    if points_first:
        got = make_mixture(gaussians).log_prob(value.movedim(1, 0)).mT
    else:
        got = make_mixture(Gaussians(*(part.unsqueeze(1) for part in gaussians))).log_prob(value)
    torch.testing.assert_close(got, torch.stack(apart))


def affine_parts():
    torch.manual_seed(0)
    parts = [transforms.act_norm(3), transforms.lu_linear(3, permutation=[2, 0, 1]), transforms.standardize(3)]
    parts[0].initialize(5 + 2 * torch.randn(100, 3))
    parts[2].fit(1 + 3 * torch.randn(100, 3))
    parts = [pcf.testing.randomize_parameters(part, 0.3).double() for part in parts]
    return [*parts, transforms.similarity(torch.randn(4).double(), torch.randn(3).double(), 1.7)]


@pytest.mark.parametrize("number", range(4))
def test_what_says_that_it_is_affine_is(number):
    """It keeps the middle of two points."""
    part = affine_parts()[number]
    assert part.is_affine
    one, other = torch.randn(2, 9, 3).double()
    torch.testing.assert_close(part((one + other) / 2), (part(one) + part(other)) / 2)


def test_gaussians_under_affine_transforms():
    """The density of the Gaussians that it names is the distribution's own."""
    mixture = make_mixture(make_gaussians(batch=(2,)))
    parts = affine_parts()
    density = TransformedDistribution(mixture, [transforms.CouplingStack(parts[:3]), parts[3]])
    log_weights, loc, root = gaussian_mixture.as_gaussians(density)
    torch.testing.assert_close(log_weights.logsumexp(-1), torch.zeros(2).double())
    points = density.sample((7,))
    components = MultivariateNormal(loc, covariance_matrix=root @ root.mT).log_prob(points.unsqueeze(-2))
    torch.testing.assert_close((log_weights + components).logsumexp(-1), density.log_prob(points))


def test_what_is_no_mixture_of_gaussians():
    bent = pcf.PointCloudFlow(3, num_couplings=1, hidden_dims=[4]).condition()
    assert gaussian_mixture.as_gaussians(bent) is None
    assert gaussian_mixture.as_gaussians(torch.distributions.Laplace(torch.zeros(3), 1.0)) is None
    assert gaussian_mixture.as_gaussians(make_mixture(make_gaussians())) is not None


def test_evaluated_once_for_several_uses():
    calls = []
    gaussians = make_gaussians()
    mixture = GaussianMixture(
        lambda: calls.append(1) or gaussians, torch.Size(), num_components=4, point_dim=3, validate_args=False
    )
    pose = transforms.similarity(torch.randn(4).double())
    density = TransformedDistribution(mixture, [pose])
    points = density.sample((5,))
    calls.clear()
    once = gaussian_mixture.with_gaussians(density)
    torch.testing.assert_close(once.log_prob(points), density.log_prob(points))
    once.log_prob(points)
    assert len(calls) == 2
    assert density.base_dist is mixture
