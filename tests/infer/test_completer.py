"""The amortised posterior of partial clouds."""

from __future__ import annotations

import pyro
import pytest
import torch

import pyro_pcflow as pcf
from helpers.conjugate import make_conjugate
from pyro_pcflow.infer import Completer, complete
from pyro_pcflow.infer.views import Whole

SMALL = {"context_dim": 16, "encoder": {"point_dims": [16, 32], "hidden_dims": [32]}}

# Small models, few steps and clouds that are no shapes: what complete says of them has tests of its own.
pytestmark = pytest.mark.filterwarnings("ignore:what was found may be wrong")


def make_vae(**options):
    torch.manual_seed(0)
    vae = pcf.PointCloudVAE(latent_dim=4, **{"decoder": {"num_couplings": 2, "hidden_dims": [8]}, **options})
    return pcf.testing.randomize_parameters(vae, 0.1)


def mixture_vae(**options):
    return make_vae(decoder={"base": "mixture", "num_components": 8, "num_couplings": 0}, **options)


class Linear(pcf.PointCloudVAE):
    """A model whose points are linear in its latents, in the noise: the posterior is that of a linear regression."""

    def __init__(self):
        super().__init__(3, 2, prior="normal", decoder={"num_couplings": 1, "hidden_dims": [4]})
        self.known = make_conjugate(strength=0.7, dtype=torch.float32)
        self.decoder = self.known.flow

    def encode(self, clouds, mask=None, *, labels=None, check=True):
        return self.known.posterior(clouds, mask)


@pytest.fixture(scope="module")
def trained():
    model = Linear()
    clouds = model.decode(torch.randn(100, 2, generator=torch.Generator().manual_seed(0)), 60).sample()
    wide = {"context_dim": 32, "encoder": {"point_dims": [32, 64], "hidden_dims": [64]}}
    completer = Completer(model, **wide, posterior={"num_couplings": 2, "hidden_dims": [32]}, views=Whole())
    pcf.fit(completer, clouds, max_steps=600, batch_size=32, lr=8e-3, device="cpu", seed=1)
    return completer


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*surface.*")
def test_a_trained_one_finds_a_posterior_in_closed_form(trained):
    """Of clouds that it never saw, of two sizes: nearer than a deviation, and never more than there is to know."""
    torch.manual_seed(3)
    model = trained.model
    latents = torch.randn(400, 2)
    clouds = model.decode(latents, 30).sample()
    mask = torch.arange(30) < torch.tensor([22, 30]).repeat(200).unsqueeze(-1)
    exact, found = model.known.posterior(clouds, mask), trained.condition(clouds, mask)
    draws = found.sample((500,))
    distance = (draws.mean(0) - exact.mean).abs() / exact.stddev
    # The prior's mean is as far from the posterior's as their deviations say.
    assert distance.mean() < 1 < (exact.mean.abs() / exact.stddev).mean() / 2
    # Gibbs' inequality: no density of latents given clouds is better than the posterior.
    shortfall = exact.log_prob(latents) - found.log_prob(latents)
    assert shortfall.mean() > -4 * shortfall.std() / 400**0.5
    assert shortfall.mean() < (exact.log_prob(latents) - model.latent_prior().log_prob(latents)).mean() / 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*surface.*")
def test_chains_from_its_draws_are_exact(trained):
    torch.manual_seed(4)
    model = trained.model
    clouds = model.decode(torch.randn(5, 2), 30).sample()
    exact = model.known.posterior(clouds)
    result = complete(model, clouds, 40, method="hmc", proposal=trained, num_samples=400, num_steps=30)
    draws = result.latents["z"]
    assert ((draws.mean(0) - exact.mean).abs() < exact.stddev / 4).all()
    assert ((draws.std(0) / exact.stddev - 1).abs() < 0.25).all()
    assert result.diagnostics["r_hat"].max() < 1.1


@pytest.mark.parametrize("make", [make_vae, mixture_vae])
def test_a_new_one_is_the_prior(make):
    """Whatever it reads, corrections included."""
    vae = make()
    completer = Completer(vae, **SMALL)
    assert completer.num_corrections == (2 if make is mixture_vae else 0)
    found = completer.condition(3 * torch.randn(5, 60, 3))
    assert found.batch_shape == (5,)
    z = vae.latent_prior().sample((7, 5))
    torch.testing.assert_close(found.log_prob(z), vae.latent_prior().log_prob(z), rtol=1e-4, atol=1e-3)


def test_a_correction_of_zero_leaves_what_was_found():
    """And any other changes it, by what the Gaussians of the decoder make of the points."""
    completer = pcf.testing.randomize_parameters(Completer(mixture_vae(), **SMALL), 0.05)
    clouds, z = torch.randn(5, 60, 3), torch.randn(5, 4)
    changed = [guess.log_prob(z) for guess in completer.guesses(clouds)]
    assert (changed[0] - changed[1]).abs().min() > 1e-4
    for parameter in completer.correction[-1].parameters():
        parameter.data.zero_()
    before, *after = [guess.log_prob(z) for guess in completer.guesses(clouds)]
    assert len(after) == 2
    for guess in after:
        torch.testing.assert_close(guess, before)
    assert (before - completer.guesses(clouds + 1)[0].log_prob(z)).abs().min() > 1e-4


@pytest.mark.parametrize("make", [make_vae, mixture_vae])
def test_order_padding_and_labels(make):
    vae = make(num_classes=3)
    completer = pcf.testing.randomize_parameters(Completer(vae, **SMALL), 0.2)
    clouds, labels = torch.randn(4, 50, 3), torch.tensor([0, 1, 2, 0])
    z = torch.randn(4, 4)
    whole = completer.condition(clouds, labels=labels).log_prob(z)
    shuffled = completer.condition(clouds[:, torch.randperm(50)], labels=labels).log_prob(z)
    padded = torch.cat([clouds, torch.full((4, 9, 3), torch.nan)], 1)
    mask = torch.arange(59).expand(4, -1) < 50
    torch.testing.assert_close(shuffled, whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        completer.condition(padded, mask, labels=labels).log_prob(z), whole, rtol=1e-4, atol=1e-4
    )
    other = completer.condition(clouds, labels=(labels + 1) % 3).log_prob(z)
    assert (other - whole).abs().min() > 1e-3
    with pytest.raises(TypeError, match="labels"):
        completer.condition(clouds)


def test_densities_integrate():
    """By importance sampling from a wide normal."""
    torch.manual_seed(1)
    completer = pcf.testing.randomize_parameters(Completer(make_vae(prior="normal"), **SMALL), 0.03)
    found = completer.condition(torch.randn(60, 3))
    wide = torch.distributions.MultivariateNormal(torch.zeros(4), 2 * torch.eye(4))
    with torch.no_grad():
        points = wide.sample((100_000,))
        weights = (found.log_prob(points) - wide.log_prob(points)).exp()
    assert weights.std() < 10
    assert abs(weights.mean() - 1) < 4 * weights.std() / len(weights) ** 0.5


def test_it_is_saved_with_its_model(tmp_path):
    completer = pcf.testing.randomize_parameters(Completer(mixture_vae(), **SMALL), 0.2)
    completer.normalize(torch.randn(100, 3))
    completer.temper = torch.tensor([1.0, 0.5, 0.2, 0.1])
    pcf.save(completer, tmp_path / "completer.pt")
    again = pcf.load(tmp_path / "completer.pt")
    clouds, z = torch.randn(3, 40, 3), torch.randn(3, 4)
    assert torch.equal(again.condition(clouds).log_prob(z), completer.condition(clouds).log_prob(z))
    assert torch.equal(again.temper, completer.temper)
    assert not any(parameter.requires_grad for parameter in again.model.parameters())


def test_the_model_is_copied_and_not_trained():
    vae = make_vae()
    before = {name: value.clone() for name, value in vae.named_parameters()}
    completer = Completer(vae, **SMALL)
    pcf.fit(completer, torch.randn(20, 100, 3), max_steps=3, batch_size=4, noise=0.1, device="cpu")
    for module in (vae, completer.model):
        for name, value in module.named_parameters():
            assert torch.equal(value, before[name])
    assert all(parameter.requires_grad for parameter in vae.parameters())


def test_exponents_between_known_numbers_of_points():
    completer = Completer(make_vae(), **SMALL)
    assert completer.exponent(torch.tensor([10, 1000])).tolist() == [1.0, 1.0]
    completer.temper = torch.tensor([1.0, 1.0, 0.1, 0.01])
    found = completer.exponent(torch.tensor([5, 30, 100, 173, 1000, 9000]))
    assert found.tolist() == pytest.approx([1.0, 1.0, 1.0, 0.1**0.5, 0.01, 0.01], rel=0.01)


def test_simulated_clouds_have_the_latents_that_made_them():
    vae = make_vae()
    completer = Completer(vae, **SMALL)
    pyro.set_rng_seed(0)
    noise, clouds = completer.simulate(6, 50)
    assert clouds.shape == (6, 50, 3)
    z = vae.latent_prior().transforms[0](noise)
    torch.testing.assert_close(completer.to_noise(z), noise, rtol=1e-3, atol=1e-3)


def test_wrong_use():
    with pytest.raises(TypeError, match="PointCloudFlow"):
        Completer(pcf.PointCloudFlow(3))
    with pytest.raises(ValueError, match="context_dim"):
        Completer(make_vae(), context_dim=0)
    with pytest.raises(ValueError, match="base='mixture'"):
        Completer(make_vae(), num_corrections=1)
    with pytest.raises(TypeError, match="depth"):
        Completer(make_vae(), encoder={"depth": 3})
    with pytest.raises(ValueError, match=r"\(\*batch, N, 3\)"):
        Completer(make_vae(), **SMALL).condition(torch.randn(5, 2))


def test_that_of_the_model_is_the_proposal_until_the_model_changes():
    torch.manual_seed(0)
    vae = pcf.PointCloudVAE(latent_dim=3, prior="normal", decoder={"num_couplings": 2, "hidden_dims": [8]})
    completer = Completer(vae, context_dim=8, encoder={"point_dims": [8], "hidden_dims": [8]})
    vars(vae)["completer"] = completer
    partial = torch.randn(2, 20, 3)
    assert complete(vae, partial, 20, num_samples=2).method == "completer"
    assert complete(vae, partial, 20, num_samples=2, proposal=None).method == "hmc"
    assert complete(vae, partial, 20, num_samples=2, num_steps=5, method="svi").method == "svi"
    assert completer.is_of(vae)
    with torch.no_grad():
        next(vae.decoder.parameters()).add_(1e-3)
    assert not completer.is_of(vae)
    with pytest.raises(ValueError, match="changed since its completer was trained"):
        complete(vae, partial, 20)
    assert complete(vae, partial, 20, num_samples=2, proposal=None).method == "hmc"
    assert not completer.is_of(vae.double())
