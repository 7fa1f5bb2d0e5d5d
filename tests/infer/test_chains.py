"""Many chains of any Pyro model, on posteriors in closed form."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

from helpers.conjugate import make_conjugate
from pyro_pcflow.infer import sample_posterior
from pyro_pcflow.infer.chains import _pooled_scale
from pyro_pcflow.infer.hmc import Tempered, sample_hmc


def regression(inputs, outputs, deviation):
    """Bayesian linear regression; inputs `(N, L)`, outputs `(N,)`, or `(B, N)` of some problems in a plate."""

    def model():
        prior = dist.Normal(torch.zeros(inputs.shape[-1]).double(), 1.0).to_event(1)
        if outputs.dim() == 1:
            weights = pyro.sample("weights", prior)
            with pyro.plate("data", len(outputs)):
                pyro.sample("y", dist.Normal((weights * inputs).sum(-1), deviation), obs=outputs)
            return
        with pyro.plate("problems", len(outputs)):
            weights = pyro.sample("weights", prior)
            mean = (weights.unsqueeze(-2) @ inputs.mT).squeeze(-2)
            pyro.sample("y", dist.Normal(mean, deviation).to_event(1), obs=outputs)

    return model


def closed_form(inputs, outputs, deviation):
    """Bishop, Pattern Recognition and Machine Learning, 2006, section 3.3."""
    precision = torch.eye(inputs.shape[-1]).double() + inputs.mT @ inputs / deviation**2
    covariance = torch.linalg.inv(precision)
    return (covariance @ inputs.mT @ outputs.unsqueeze(-1) / deviation**2).squeeze(-1), covariance


def ridge():
    """Inputs whose posterior is narrow, and far narrower in some directions."""
    torch.manual_seed(0)
    inputs = torch.randn(50, 4).double() * torch.tensor([0.1, 1.0, 3.0, 10.0]).double()
    inputs[:, 3] += 3 * inputs[:, 2]
    return inputs


def test_posterior_of_a_regression():
    pyro.set_rng_seed(0)
    inputs = ridge()
    outputs = inputs @ torch.tensor([0.5, -1.0, 1.0, 0.3]).double() + 0.3 * torch.randn(50).double()
    chains = sample_posterior(regression(inputs, outputs, 0.3), num_chains=32, num_steps=100, warmup_steps=200)
    mean, covariance = closed_form(inputs, outputs, 0.3)
    draws = chains.samples["weights"]
    assert draws.shape == (32, 100, 4)
    assert (chains.r_hat["weights"] < 1.05).all()
    assert chains.r_hat["log_likelihood"] < 1.05
    n_eff = chains.n_eff["weights"]
    assert (n_eff > 500).all()
    deviation = covariance.diagonal().sqrt()
    assert ((draws.mean((0, 1)) - mean).abs() < 4 * deviation / n_eff.sqrt()).all()
    whitened = torch.linalg.solve_triangular(
        torch.linalg.cholesky(covariance), draws.flatten(0, 1).T.cov(), upper=False
    )
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), whitened.T, upper=False)
    # Entries of a covariance of 500 independent draws have a standard error of at most sqrt(2 / 500).
    assert ((whitened - torch.eye(4).double()).abs() < 4 * (2 / 500) ** 0.5).all()


def test_each_problem_of_a_batch_has_its_own_steps():
    pyro.set_rng_seed(0)
    inputs = ridge()[:, 1:3]
    outputs = torch.stack([inputs @ torch.tensor([1.0, -0.5]).double(), torch.zeros(50).double()])
    outputs = outputs + torch.randn(2, 50).double()
    chains = sample_posterior(regression(inputs, outputs, 1.0), num_chains=20, batch_shape=(2,))
    assert chains.samples["weights"].shape == (20, 100, 2, 2)
    assert chains.r_hat["weights"].shape == (2, 2)
    names = {"log_prior", "log_likelihood", "acceptance_rate", "diverging", "step_size"}
    assert set(chains.statistics) == names
    assert all(value.shape == (20, 100, 2) for value in chains.statistics.values())
    assert not chains.statistics["diverging"].any()
    assert (chains.statistics["acceptance_rate"].mean((0, 1)) > 0.6).all()
    for problem in range(2):
        mean, covariance = closed_form(inputs, outputs[problem], 1.0)
        draws = chains.samples["weights"][:, :, problem]
        error = 4 * covariance.diagonal().sqrt() / chains.n_eff["weights"][problem].sqrt()
        assert ((draws.mean((0, 1)) - mean).abs() < error).all()


def test_a_bounded_latent_and_what_follows_from_it():
    """A beta prior and counts; a deterministic site is sampled along."""

    def model():
        share = pyro.sample("share", dist.Beta(torch.tensor(2.0).double(), 3.0))
        pyro.deterministic("odds", share / (1 - share))
        pyro.sample("count", dist.Binomial(20, share), obs=torch.tensor(15.0).double())

    pyro.set_rng_seed(0)
    chains = sample_posterior(model, num_steps=200)
    share = chains.samples["share"]
    expected = dist.Beta(17.0, 8.0)
    assert abs(share.mean() - expected.mean) < 4 * expected.stddev / chains.n_eff["share"].sqrt()
    assert abs(share.std() / expected.stddev - 1) < 0.1
    torch.testing.assert_close(chains.samples["odds"], share / (1 - share))


def test_chains_leave_a_heavy_tailed_prior():
    """Eight schools (Rubin, Estimation in parallel randomized experiments, 1981), against a sum over a grid."""
    effects = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]).double()
    errors = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]).double()
    zero = torch.zeros(()).double()

    def model():
        mean, spread = pyro.sample("mean", dist.Normal(zero, 5.0)), pyro.sample("spread", dist.HalfCauchy(zero + 5.0))
        with pyro.plate("schools", 8):
            school = pyro.sample("school", dist.Normal(zero, 1.0))
            pyro.sample("effect", dist.Normal(mean + spread * school, errors), obs=effects)

    pyro.set_rng_seed(1)
    chains = sample_posterior(model, num_chains=128)
    assert all((value < 1.1).all() for value in chains.r_hat.values())
    # With the schools and the mean integrated out, an effect is normal.
    spreads = torch.linspace(0.005, 60, 6001).double()
    variance = errors.square() + spreads.square().unsqueeze(-1)
    precision = 1 / 25 + (1 / variance).sum(-1)
    middle = (effects / variance).sum(-1) / precision
    log_evidence = -0.5 * (variance.log() + effects.square() / variance).sum(-1)
    log_evidence = log_evidence - 0.5 * precision.log() + 0.5 * precision * middle.square()
    weights = (log_evidence + dist.HalfCauchy(5.0).log_prob(spreads)).softmax(0)
    for name, expected in (("mean", (weights * middle).sum()), ("spread", (weights * spreads).sum())):
        draws = chains.samples[name]
        assert abs(draws.mean() - expected) < 4 * draws.std() / chains.n_eff[name].sqrt()


def test_log_densities_are_those_of_the_draws():
    known = make_conjugate(strength=0.7)
    cloud = known.flow.cloud(torch.zeros(2).double(), num_points=10).sample()

    def model():
        context = pyro.sample("context", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
        pyro.sample("cloud", known.flow.cloud(context, num_points=10), obs=cloud)

    pyro.set_rng_seed(0)
    chains = sample_posterior(model, num_chains=4, num_steps=5, warmup_steps=10)
    context = chains.samples["context"]
    normal = dist.Normal(torch.zeros(2).double(), 1.0).to_event(1)
    torch.testing.assert_close(chains.statistics["log_prior"], normal.log_prob(context))
    expected = known.flow.cloud(context, num_points=10).log_prob(cloud)
    torch.testing.assert_close(chains.statistics["log_likelihood"], expected)


def test_a_trajectory_that_loses_its_energy_is_marked():
    """By steps ten times as long as a normal density is wide; every one is rejected."""

    def log_densities(noise):
        return -50.0 * noise.square().sum(-1), noise.new_zeros(noise.shape[:-1])

    pyro.set_rng_seed(0)
    start = 0.1 * torch.randn(8, 2).double()
    result = sample_hmc(Tempered(log_densities), start, num_steps=4, warmup_steps=0, step_size=1.0)
    assert result.statistics["diverging"].all()
    torch.testing.assert_close(result.noise[-1], start)
    result = sample_hmc(Tempered(log_densities), start, num_steps=4, warmup_steps=0, step_size=0.01)
    assert not result.statistics["diverging"].any()
    assert result.acceptance > 0.9


def test_the_scale_of_all_chains_together():
    torch.manual_seed(0)
    factor = torch.tensor([[2.0, 0.0], [1.0, 0.01]]).double()
    noise = torch.randn(100, 200, 3, 2).double() @ factor.T
    scale = _pooled_scale(noise)
    assert scale.shape == (3, 2, 2)
    torch.testing.assert_close(scale @ scale.mT, (factor @ factor.T).expand(3, 2, 2), rtol=0.05, atol=0.05)


def test_a_model_that_mixes_up_chains_is_refused():
    """Matrix products that take the dimension of the chains for their own would count the data once per chain."""
    inputs = ridge()

    def model():
        weights = pyro.sample("weights", dist.Normal(torch.zeros(4).double(), 1.0).to_event(1))
        with pyro.plate("data", 50):
            mean = (weights.unsqueeze(-2) @ inputs.mT).squeeze(-2)
            pyro.sample("y", dist.Normal(mean, 1.0), obs=torch.zeros(50).double())

    with pytest.raises(ValueError, match="another log-density when many chains"):
        sample_posterior(model)


def test_wrong_use():
    def model():
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(loc, 1.0), obs=torch.zeros(()))

    for options in ({"num_chains": 1}, {"num_steps": 3}, {"warmup_steps": -1}, {"num_leapfrogs": 0}):
        with pytest.raises(ValueError, match=r"expected num_chains of at least 2, .* got"):
            sample_posterior(model, **options)
    with pytest.raises(ValueError, match=r"not every latent is sampled in plates of batch_shape=\(3,\): loc"):
        sample_posterior(model, batch_shape=(3,))
