"""Priors over latents, decoders and walks: densities, and draws with known moments."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from pyro.infer import SVI, Trace_ELBO
from torch import nn

import pyro_pcflow as pcf
from helpers.conjugate import make_conjugate
from helpers.small_vae import make_vae
from pyro_pcflow.distributions.mixture import coupled_labels
from pyro_pcflow.models import latent_flow


@pytest.mark.parametrize("latent_dim", [2, 3, 8])
@pytest.mark.parametrize("context_dim", [0, 3])
def test_a_new_one_is_standard_normal(latent_dim, context_dim):
    prior = latent_flow(latent_dim, context_dim)
    context = torch.randn(5, context_dim) if context_dim else None
    density = prior.condition(context)
    assert density.event_shape == (latent_dim,)
    assert density.batch_shape == ((5,) if context_dim else ())
    z = 2 * torch.randn(5, latent_dim)
    torch.testing.assert_close(density.log_prob(z), dist.Normal(0, 1).expand([latent_dim]).to_event(1).log_prob(z))


@pytest.mark.parametrize("options", [{}, {"context_dim": 3}, {"lu_linear": True, "act_norm": True}])
def test_it_integrates_to_one(options):
    torch.manual_seed(0)
    prior = latent_flow(2, num_couplings=4, hidden_dims=[16], **options).double()
    if options.get("act_norm"):
        prior.log_prob(torch.randn(100, 2).double())
    pcf.testing.randomize_parameters(prior, 0.3)
    axis = torch.linspace(-25, 25, 1001, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    context = torch.randn(3, dtype=torch.float64) if "context_dim" in options else None
    with torch.no_grad():
        log_prob = prior.condition(context).log_prob(grid)
        assert (log_prob.exp().sum() * 0.05**2).item() == pytest.approx(1, abs=1e-3)
        # And it is no longer standard normal.
        assert (log_prob - dist.Normal(0, 1).expand([2]).to_event(1).log_prob(grid)).abs().max() > 0.1


def test_every_coordinate_is_moved_and_every_parameter_trained():
    prior = pcf.testing.randomize_parameters(latent_flow(5, 2, num_couplings=2, hidden_dims=[8])).double()
    z = torch.randn(20, 5, dtype=torch.float64)
    prior.log_prob(z, torch.randn(20, 2, dtype=torch.float64)).sum().backward()
    assert [name for name, value in prior.named_parameters() if value.grad is None or not value.grad.any()] == []
    (transform,) = prior.condition(torch.randn(2, dtype=torch.float64)).transforms
    assert ((transform(z) - z).abs() > 1e-6).any(0).all()


def test_options_reach_the_flow():
    prior = latent_flow(4, num_couplings=3, hidden_dims=[7], activation="tanh", masks="move_one")
    assert prior.config["activation"] == "tanh"
    assert prior.config["masks"] == "move_one"
    assert prior.config["num_couplings"] == 3
    assert latent_flow(4).config["num_frequencies"] == 0


@pytest.mark.parametrize("latent_dim", [0, 1])
def test_a_latent_too_small(latent_dim):
    with pytest.raises(ValueError, match=r"at least 2|point_dim|2 coordinates"):
        latent_flow(latent_dim)


class TestDraws:
    def test_samples_are_draws_of_the_marginal(self):
        """Of a linear-Gaussian model: the noise of one point is normal with known moments."""
        known = make_conjugate(strength=1.0)
        vae = make_vae(latent_dim=2, prior="normal")
        vae.decoder = known.flow
        points = vae.sample(4000, 1)[:, 0]
        noise, _ = known._noise(points)
        covariance = known.loc @ known.loc.T + torch.diag(known.scale.square())
        whitened = torch.linalg.solve_triangular(
            torch.linalg.cholesky(covariance), (noise - known.bias).T, upper=False
        ).T
        assert whitened.mean(0).abs().max() < 4 / 4000**0.5
        assert (whitened.T.cov() - torch.eye(3)).abs().max() < 0.1

    def test_points_of_a_sample_share_their_latent(self):
        known = make_conjugate(strength=3.0)
        vae = make_vae(latent_dim=2, prior="normal")
        vae.decoder = known.flow
        noise, _ = known._noise(vae.sample(500, 50))
        within = noise.var(1).mean(0)
        torch.testing.assert_close(within, known.scale.square(), rtol=0.1, atol=0)
        between = (noise.mean(1) - known.bias).T.cov()
        expected = known.loc @ known.loc.T + torch.diag(known.scale.square()) / 50
        torch.testing.assert_close(between, expected, rtol=0.3, atol=0.3)

    @pytest.mark.parametrize("prior", ["normal", "flow"])
    @pytest.mark.parametrize("num_classes", [0, 2])
    def test_a_walk_is_straight_where_the_prior_is_normal(self, prior, num_classes):
        vae = make_vae(prior=prior, num_classes=num_classes)
        start, end = torch.randn(2, 3, 4, dtype=torch.float64)
        labels = torch.tensor([0, 1, 1]) if num_classes else None
        seen = []
        decode = vae.decode
        vae.decode = lambda z, *args, **options: seen.append(z) or decode(z, *args, **options)
        walk = vae.interpolate_latents(start, end, 4, 6, labels=labels)
        del vae.decode
        assert walk.shape == (4, 3, 6, 3)
        path = torch.stack(seen)
        torch.testing.assert_close(path[0], start, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(path[-1], end, rtol=1e-8, atol=1e-8)
        if prior == "flow":
            for i in range(3):
                onehot = None if labels is None else F.one_hot(labels[i], 2).double()
                (transform,) = vae.prior.condition(onehot).transforms
                path[:, i] = transform.inv(path[:, i])
            assert not torch.allclose(seen[1], torch.lerp(start, end, 1 / 3))
        for step in (1, 2):
            torch.testing.assert_close(path[step], path[0] + (path[3] - path[0]) * step / 3, rtol=1e-7, atol=1e-7)

    def test_few_points_of_a_walk_change_to_another_component(self):
        """Twice as many at most as the weights demand; drawn from cumulative weights, most would."""
        decoder = {"base": "mixture", "num_components": 64, "num_couplings": 0}
        vae = make_vae(prior="normal", decoder=decoder)
        with torch.no_grad():
            for values in (vae.decoder.base.logits, *vae.decoder.base.network[-1].parameters()):
                values.mul_(0.05)
        start, step = torch.randn(2, 4, dtype=torch.float64)
        end = start + 0.5 * step
        weights = vae.decoder.base.gaussians(torch.stack([start, end])).logits.softmax(-1)
        distance = (weights[0] - weights[1]).abs().sum() / 2
        assert 0.02 < distance < 0.4
        labels = []
        for z in (start, end):
            torch.manual_seed(0)
            with coupled_labels():
                labels.append(vae.decoder.condition(z).sample_with_labels((4000,))[1])
        changed = (labels[0] != labels[1]).double().mean()
        assert changed < 2 * distance / (1 + distance) + 4 * (0.25 / 4000) ** 0.5
        # A walk draws them in this way.
        torch.manual_seed(0)
        walk = vae.interpolate_latents(start, end, 2, 4000)
        for cloud, z in zip(walk, (start, end), strict=True):
            torch.manual_seed(0)
            with coupled_labels():
                torch.testing.assert_close(cloud, vae.decode(z, 4000).sample())

    @pytest.mark.parametrize("prior", ["normal", "flow"])
    def test_latents_of_a_walk_are_checked(self, prior):
        vae = make_vae(prior=prior)
        wrong = torch.zeros(2, 3, dtype=torch.float64)
        with pytest.raises(ValueError, match=r"latents|points|shape"):
            vae.interpolate_latents(wrong, wrong, 3, 5)


class TestDecoder:
    def test_a_transform_of_ones_own(self, tmp_path):
        """Its context is latent, label and noise level; it is saved with the model."""
        stack = pcf.transforms.coupling_stack(3, context_dim=4 + 2 + 1, num_couplings=3, hidden_dims=[5])
        vae = make_vae(decoder={"transform": stack}, num_classes=2, noise_input=True)
        assert "masks" not in vae.config["decoder"]
        z, labels = torch.randn(2, 4).double(), torch.tensor([0, 1])
        clouds = vae.decode(z, 5, labels=labels).sample()
        pcf.save(vae, tmp_path / "vae.pt")
        log_prob = vae.decode(z, 5, labels=labels).log_prob(clouds)
        assert torch.equal(pcf.load(tmp_path / "vae.pt").decode(z, 5, labels=labels).log_prob(clouds), log_prob)
        with pytest.raises(TypeError, match="a transform and hidden_dims"):
            make_vae(decoder={"transform": stack, "hidden_dims": [8]})
        with pytest.raises(TypeError, match="unknown option 'transform'"):
            make_vae(decoder={"transform": stack}, num_flows=2)

    def test_the_sharp_one_is_for_who_chooses_no_other(self):
        def decoder(**options):
            return pcf.PointCloudVAE(3, 4, **options).decoder

        assert decoder().config["base"] == decoder(decoder={"hidden_dims": [16]}).config["base"] == "mixture"
        assert decoder(decoder={"num_components": 7}).config["num_components"] == 7
        assert len(decoder(decoder={"num_couplings": 3}).transform.parts) == 3 + 1
        chosen = [{"decoder": {"num_couplings": 3}}, {"decoder": {"base": "normal"}}, {"num_flows": 2}]
        assert [decoder(**options).config["base"] for options in chosen] == ["normal"] * 3

    def test_the_level_is_zero_by_default(self):
        vae = make_vae(noise_input=True)
        z, cloud = torch.randn(2, 4, dtype=torch.float64), torch.randn(2, 7, 3, dtype=torch.float64)
        density = vae.decode(z, 7).log_prob(cloud)
        zero = torch.zeros(2, 1, dtype=torch.float64)
        torch.testing.assert_close(density, vae.decoder.cloud(torch.cat([z, zero], -1), num_points=7).log_prob(cloud))
        noisy = vae.decode(z, 7, noise_level=torch.tensor([0.0, 0.5], dtype=torch.float64)).log_prob(cloud)
        assert noisy[0] == density[0]
        assert abs(noisy[1] - density[1]) > 1e-3
        torch.testing.assert_close(vae.decode(z, 7, noise_level=0.5).log_prob(cloud)[1], noisy[1])
        # Float32 levels meet a float64 model.
        torch.testing.assert_close(vae.decode(z, 7, noise_level=torch.tensor(0.5)).log_prob(cloud)[1], noisy[1])

    def test_a_decoder_density_integrates_to_one(self):
        vae = make_vae(point_dim=2, latent_dim=3)
        axis = torch.linspace(-12, 18, 400, dtype=torch.float64)
        grid = torch.cartesian_prod(axis, axis)
        density = vae.decode(torch.randn(3, dtype=torch.float64), 1).log_prob(grid.unsqueeze(-2)).exp()
        assert (density.sum() * (axis[1] - axis[0]) ** 2).item() == pytest.approx(1, abs=0.01)

    def test_a_printed_model_says_its_size(self):
        vae = make_vae()
        count = sum(parameter.numel() for parameter in vae.parameters())
        assert f"latent_dim=4, {count:,} parameters" in repr(vae)


class ImageVAE(nn.Module):
    """A plain Pyro VAE of 8 x 8 pixels, whatever its prior."""

    def __init__(self, prior):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 4))
        self.decoder = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 64))
        self.prior = prior

    def model(self, images):
        pyro.module("vae", self)
        with pyro.plate("images", len(images)):
            normal = dist.Normal(images.new_zeros(2), 1.0).to_event(1)
            prior = normal if self.prior is None else self.prior.condition()
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(self.decoder(z), 0.1).to_event(1), obs=images)

    def guide(self, images):
        pyro.module("vae", self)
        loc, raw = self.encoder(images).chunk(2, -1)
        with pyro.plate("images", len(images)):
            pyro.sample("z", dist.Normal(loc, F.softplus(raw)).to_event(1))


def blobs(count, seed):
    """Images of a blob that is in one of two corners, a little moved, shape `(count, 64)`."""
    generator = torch.Generator().manual_seed(seed)
    corner = 2.0 * torch.randint(2, (count, 1, 1), generator=generator) - 1
    where = 2.2 * corner + 0.3 * torch.randn(count, 2, 1, generator=generator)
    row, column = (place.unsqueeze(-1) for place in where.unbind(1))
    axis = torch.arange(8) - 3.5
    image = torch.exp(-((axis.unsqueeze(-1) - row).square() + (axis - column).square()) / 4)
    image = image + 0.1 * torch.randn(image.shape, generator=generator)
    return image.reshape(count, 64)


def bound_of(prior, images, held_out):
    torch.manual_seed(0)
    pyro.clear_param_store()
    vae = ImageVAE(prior)
    svi = SVI(vae.model, vae.guide, pyro.optim.ClippedAdam({"lr": 1e-2, "lrd": 0.995}), Trace_ELBO())
    for step in range(600):
        first = 100 * step % len(images)
        svi.step(images[first : first + 100])
    with torch.no_grad():
        losses = [Trace_ELBO().loss(vae.model, vae.guide, held_out) for _ in range(20)]
    return -sum(losses) / len(losses) / len(held_out)


@pytest.mark.exhaustive
def test_it_is_the_better_prior_of_any_vae_whose_latents_have_two_modes():
    """Nothing here knows of points."""
    images, held_out = blobs(2000, seed=1), blobs(1000, seed=2)
    normal = bound_of(None, images, held_out)
    flow = bound_of(latent_flow(2, num_couplings=6, hidden_dims=[32]), images, held_out)
    assert flow > normal + 0.1


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda vae: vae.sample(2, 5, labels=[0, 1]), ValueError, "from 0 to 2, got list"),
        (lambda vae: vae.sample(2, 5, labels=torch.tensor([0, 7])), ValueError, "from 0 to 2, got 0 to 7"),
        (lambda vae: vae.sample(4, 5, labels=torch.tensor([0, 1])), ValueError, r"each of 4 clouds, .* shape \(2,\)"),
        (lambda vae: vae.decode([0.0] * 4, 5), ValueError, r"latents as a tensor of shape \(\*batch, 4\), got list"),
        (
            lambda vae: vae.decode(torch.randn(5, 4).double(), 5, labels=torch.tensor([0, 1])),
            ValueError,
            r"latents of batch shape \(5,\) do not broadcast with labels .* \(2,\)",
        ),
        (lambda _: make_vae(decoder=nn.Linear(2, 2)), TypeError, "decoder: expected a dict of options, got Linear"),
        (lambda _: make_vae(prior_options=[1]), TypeError, "prior_options: expected a dict of options, got list"),
        (lambda _: latent_flow(1), ValueError, "latent_dim of at least 2, got 1: use a normal prior"),
    ],
)
def test_what_does_not_fit_is_told(call, kind, words):
    with pytest.raises(kind, match=words):
        call(make_vae(num_classes=3))
