"""The bound against evidences in closed form, and against sums over single clouds and points."""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import partial

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, JitTrace_ELBO, RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch.distributions import MultivariateNormal, Normal, kl_divergence

import pyro_pcflow as pcf
from helpers.conjugate import make_conjugate
from helpers.small_vae import DECODER, ENCODER, SIZES, elbo_of, latents_of, make_vae, ragged, terms_by_hand
from pyro_pcflow.models import unregistered


class TestKnownEvidence:
    """A decoder whose posterior and evidence have a closed form, see `conjugate.py`, and the guide of one cloud."""

    @staticmethod
    def make(num_points, *, shift, stretch, seed=0, strength=0.5):
        """A VAE whose guide is independent normals near the posterior of one cloud, the cloud, and what is known."""
        known = make_conjugate(seed=seed, strength=strength)
        options = {name: value for name, value in known.flow.config.items() if name not in ("point_dim", "context_dim")}
        vae = pcf.PointCloudVAE(3, 2, prior="normal", decoder=options, encoder=ENCODER).double()
        vae.decoder = known.flow
        context = torch.randn(2, dtype=torch.float64)
        cloud = known.flow.cloud(context, num_points=num_points).sample()
        exact = known.posterior(cloud)
        loc, scale = exact.mean + shift, stretch * exact.stddev
        with torch.no_grad():
            vae.encoder.output.weight.zero_()
            # The inverse of softplus(x + log(e - 1)) + 1e-4.
            raw = torch.log(torch.expm1(scale - 1e-4)) - math.log(math.e - 1)
            vae.encoder.output.bias.copy_(torch.cat([loc, raw]))
        q = vae.encode(cloud)
        torch.testing.assert_close(q.mean, loc)
        torch.testing.assert_close(q.stddev, scale)
        # Pyro warns about frozen weights of a module in training.
        return vae.requires_grad_(False).eval(), cloud, exact, known.log_evidence(cloud)

    def test_one_particle_is_the_evidence_minus_the_divergence(self):
        """On average, within four standard errors."""
        vae, cloud, exact, evidence = self.make(5, shift=0.2, stretch=1.2)
        bounds = vae.log_prob(cloud.expand(4000, 5, 3), num_particles=1)
        q = vae.encode(cloud)
        divergence = kl_divergence(MultivariateNormal(q.mean, torch.diag_embed(q.variance)), exact)
        assert divergence > 0.1
        error = bounds.std() / len(bounds) ** 0.5
        assert error < 0.02
        assert abs(bounds.mean() - (evidence - divergence)) < 4 * error

    @pytest.mark.slow
    def test_the_bound_rises_to_the_evidence(self):
        vae, cloud, _, evidence = self.make(5, shift=0.2, stretch=1.2)
        repeats = {1: 400, 8: 400, 64: 100, 512: 50}
        bounds = [vae.log_prob(cloud.expand(n, 5, 3), num_particles=count) for count, n in repeats.items()]
        means = [float(bound.mean()) for bound in bounds]
        errors = [float(bound.std()) / len(bound) ** 0.5 for bound in bounds]
        for lower, upper, error in zip(means, means[1:], errors, strict=False):
            assert upper > lower - 3 * error
        assert means[0] < means[1] - 0.05 < means[2]
        assert means[-1] == pytest.approx(float(evidence), abs=0.01)
        # In one cloud, too, it is near.
        assert (bounds[-1] - evidence).abs().max() < 0.5

    def test_the_evidence_itself_is_unbiased(self):
        """`exp` of the bound of any number of particles estimates the evidence without bias."""
        vae, cloud, _, evidence = self.make(3, shift=0.1, stretch=1.3, seed=1)
        for particles in (1, 4):
            ratios = (vae.log_prob(cloud.expand(2000, 3, 3), num_particles=particles) - evidence).exp()
            assert abs(ratios.mean() - 1) < 4 * ratios.std() / 2000**0.5
            assert ratios.std() < 2

    def test_a_cloud_without_points_says_nothing(self):
        """Its posterior is the prior and its evidence is 1."""
        vae, cloud, exact, evidence = self.make(0, shift=0.0, stretch=1.0)
        assert evidence == 0
        torch.testing.assert_close(exact.mean, torch.zeros(2, dtype=torch.float64))
        torch.testing.assert_close(vae.log_prob(cloud, num_particles=3), evidence, atol=1e-9, rtol=0)

    @pytest.mark.parametrize("at_once", [1, 7, 1000])
    def test_particles_in_parts_are_particles(self, monkeypatch, at_once):
        vae, cloud, _, _ = self.make(5, shift=0.2, stretch=1.2)
        torch.manual_seed(0)
        expected = vae.log_prob(cloud, num_particles=20)
        monkeypatch.setattr(pcf.models.latent, "POINTS_AT_ONCE", 5 * at_once)
        # Draws of odd parts are the same where fewer than 16 numbers are drawn at a time.
        torch.manual_seed(0)
        got = vae.log_prob(cloud, num_particles=20)
        assert got.shape == ()
        assert abs(got - expected) < (1e-12 if at_once == 1000 else 0.5)

    def test_svi_finds_the_posterior_and_the_evidence(self):
        vae, cloud, exact, evidence = self.make(5, shift=1.0, stretch=2.0)
        vae.encoder.output.bias.requires_grad_()
        svi = SVI(
            vae.model,
            vae.guide,
            pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.98}),
            Trace_ELBO(num_particles=32, vectorize_particles=True, max_plate_nesting=1),
        )
        for _ in range(200):
            svi.step(cloud.unsqueeze(0))
        q = vae.encode(cloud)
        # The best independent normals have the scales of the conditionals.
        best = Normal(exact.mean, exact.precision_matrix.diagonal().rsqrt())
        assert ((q.mean - best.mean).abs() < 0.1 * best.stddev).all()
        assert ((q.stddev / best.stddev).log().abs() < 0.1).all()
        divergence = kl_divergence(MultivariateNormal(best.mean, torch.diag_embed(best.variance)), exact)
        bounds = vae.log_prob(cloud.expand(1000, 5, 3), num_particles=1)
        assert bounds.mean().item() == pytest.approx(float(evidence - divergence), abs=0.05)


class TestOneParticle:
    """Trace_ELBO, `log_prob` and sums by hand under the same latents."""

    @pytest.mark.parametrize("prior", ["normal", "flow"])
    @pytest.mark.parametrize("options", [{}, {"num_flows": 2}, {"decoder": {**DECODER, "base": "conditional"}}])
    def test_the_bound_is_log_prob_with_one_particle(self, prior, options):
        vae = make_vae(prior=prior, **options)
        clouds, mask = ragged(padding=torch.nan)
        bound = elbo_of(vae, clouds, mask)
        torch.manual_seed(5)
        log_prob = vae.log_prob(clouds, mask, num_particles=1)
        assert log_prob.shape == (len(SIZES),)
        torch.testing.assert_close(bound, log_prob.sum())
        z = latents_of(vae, clouds, mask)
        likelihood, log_prior, log_guide = terms_by_hand(vae, z, clouds, SIZES)
        torch.testing.assert_close(log_prob, likelihood + log_prior - log_guide)
        assert likelihood[0] == 0

    def test_labels_and_noise(self):
        vae = make_vae(num_classes=3, noise_input=True)
        clouds, mask = ragged()
        labels, level = torch.tensor([2, 0, 1, 2]), torch.tensor([0.0, 0.3, 1.0, 0.5], dtype=torch.float64)
        bound = elbo_of(vae, clouds, mask, labels=labels, noise_level=level)
        torch.manual_seed(5)
        log_prob = vae.log_prob(clouds, mask, 1, labels=labels, noise_level=level)
        torch.testing.assert_close(bound, log_prob.sum())
        z = latents_of(vae, clouds, mask, labels=labels)
        terms = terms_by_hand(vae, z, clouds, SIZES, labels=labels, level=level)
        torch.testing.assert_close(log_prob, terms[0] + terms[1] - terms[2])

    def test_many_particles_are_the_mean_of_the_weights(self):
        vae = make_vae()
        clouds, mask = ragged()
        torch.manual_seed(5)
        got = vae.log_prob(clouds, mask, num_particles=3)
        torch.manual_seed(5)
        draws = vae.encode(clouds, mask).sample((3,))
        weights = []
        for z in draws:
            terms = terms_by_hand(vae, z, clouds, SIZES)
            weights.append((terms[0] + terms[1] - terms[2]).exp())
        torch.testing.assert_close(got, torch.stack(weights).mean(0).log())

    def test_batches_of_any_shape(self):
        vae = make_vae()
        clouds = torch.randn(2, 3, 5, 3, dtype=torch.float64)
        torch.manual_seed(5)
        got = vae.log_prob(clouds, num_particles=4)
        torch.manual_seed(5)
        flat = vae.log_prob(clouds.reshape(6, 5, 3), num_particles=4)
        torch.testing.assert_close(got, flat.reshape(2, 3))
        assert vae.log_prob(clouds[0, 0], num_particles=2).shape == ()
        assert vae.encode(clouds).batch_shape == (2, 3)
        assert vae.encode(clouds[0, 0]).batch_shape == ()


class TestScales:
    """Every term of the bound by hand, with its weight."""

    @pytest.fixture
    def parts(self):
        vae = make_vae()
        clouds, mask = ragged()
        z = latents_of(vae, clouds, mask)
        terms = [part.detach() for part in terms_by_hand(vae, z, clouds, SIZES)]
        # Else a wrong weight of one would not show.
        assert min(abs(float(part.sum())) for part in terms) > 0.1
        return vae, clouds, mask, *terms

    @pytest.mark.parametrize("size", [None, 4, 40, 1_000_000])
    def test_a_batch_stands_for_all_clouds(self, parts, size):
        vae, clouds, mask, likelihood, prior, guide = parts
        expected = (likelihood + prior - guide).sum() * (4 if size is None else size) / 4
        torch.testing.assert_close(elbo_of(vae, clouds, mask, size), expected, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize(
        "num_points",
        [6, 100, torch.tensor(50), torch.tensor([0, 7, 12, 10]), torch.tensor([3, 7, 12, 10])],
        ids=["6", "100", "tensor", "each", "each-empty"],
    )
    def test_scored_points_stand_for_all_points(self, parts, num_points):
        """A cloud without scored points has no log-density, whatever it stands for."""
        vae, clouds, mask, likelihood, prior, guide = parts
        counts = torch.as_tensor(num_points).double().expand(4)
        shares = torch.tensor([0.0, *(float(counts[i]) / SIZES[i] for i in (1, 2, 3))], dtype=torch.float64)
        expected = (shares * likelihood + prior - guide).sum()
        torch.testing.assert_close(elbo_of(vae, clouds, mask, num_points=num_points), expected, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("num_points", [6, 100, torch.tensor(50), torch.tensor([6, 7, 12, 600])])
    def test_scored_points_without_a_mask(self, num_points):
        vae = make_vae()
        clouds = torch.randn(4, 6, 3, dtype=torch.float64)
        z = latents_of(vae, clouds)
        likelihood, prior, guide = terms_by_hand(vae, z, clouds, [6] * 4)
        expected = (torch.as_tensor(num_points).double() / 6 * likelihood + prior - guide).sum()
        torch.testing.assert_close(elbo_of(vae, clouds, num_points=num_points), expected, rtol=1e-9, atol=1e-9)

    def test_clouds_without_any_point_to_score(self):
        vae = make_vae()
        clouds = torch.randn(2, 0, 3, dtype=torch.float64)
        z = latents_of(vae, clouds)
        likelihood, prior, guide = terms_by_hand(vae, z, clouds, [0, 0])
        assert not likelihood.any()
        for num_points in (None, 10, torch.tensor([5, 0])):
            torch.testing.assert_close(elbo_of(vae, clouds, num_points=num_points), (prior - guide).sum())

    @pytest.mark.parametrize("kl_weight", [1.0, 0.25, 1e-3])
    @pytest.mark.parametrize("size", [None, 40])
    def test_the_weight_of_the_latents(self, parts, kl_weight, size):
        vae, clouds, mask, likelihood, prior, guide = parts
        expected = (likelihood + kl_weight * (prior - guide)).sum() * (1 if size is None else 10)
        torch.testing.assert_close(
            elbo_of(vae, clouds, mask, size, kl_weight=kl_weight), expected, rtol=1e-9, atol=1e-9
        )

    def test_all_at_once(self, parts):
        vae, clouds, mask, likelihood, prior, guide = parts
        shares = torch.tensor([0.0, 4.0, 2.0, 3.0], dtype=torch.float64)
        options = {"num_points": torch.tensor([0, 4, 12, 12]), "kl_weight": 0.5, "noise_level": 0.7, "index": None}
        expected = 25 * (shares * likelihood + 0.5 * (prior - guide)).sum()
        torch.testing.assert_close(elbo_of(vae, clouds, mask, 100, **options), expected, rtol=1e-9, atol=1e-9)

    def test_what_the_encoder_reads_changes_the_guide_only(self):
        vae = make_vae()
        clouds, mask = ragged()
        seen = torch.randn(4, 9, 3, dtype=torch.float64)
        seen_mask = torch.rand(4, 9) < 0.5
        q = vae.encode(seen, seen_mask)
        assert not torch.allclose(q.mean, vae.encode(clouds, mask).mean)
        options = {"encoder_points": seen, "encoder_mask": seen_mask}
        z = latents_of(vae, clouds, mask, **options)
        guide = poutine.trace(vae.guide).get_trace(clouds, mask, **options).nodes["z"]["fn"]
        torch.testing.assert_close(guide.mean, q.mean)
        terms = terms_by_hand(vae, z, clouds, SIZES, posterior=[vae.encode(seen[i][seen_mask[i]]) for i in range(4)])
        torch.testing.assert_close(elbo_of(vae, clouds, mask, **options), (terms[0] + terms[1] - terms[2]).sum())

    def test_all_seen_points_count_where_there_is_no_mask_of_them(self):
        """A mask of the scored points says nothing about the seen ones."""
        vae = make_vae()
        clouds, mask = ragged()
        seen = torch.randn(4, 6, 3, dtype=torch.float64)
        guide = poutine.trace(vae.guide).get_trace(clouds, mask, encoder_points=seen).nodes["z"]["fn"]
        torch.testing.assert_close(guide.mean, vae.encode(seen).mean)


class TestPyro:
    def test_parameters_are_registered_unless_it_is_said_otherwise(self):
        vae = make_vae()
        clouds, mask = ragged()
        names = {f"clouds$$${name}" for name, _ in vae.named_parameters()}
        got = []
        for context, registered in ((nullcontext, names), (unregistered, set()), (nullcontext, names)):
            pyro.clear_param_store()
            torch.manual_seed(3)
            with context():
                guide = poutine.trace(vae.guide).get_trace(clouds, mask, 40)
                assert set(pyro.get_param_store().keys()) == set(guide.param_nodes) == registered
                pyro.clear_param_store()
                model = poutine.trace(poutine.replay(vae.model, guide)).get_trace(clouds, mask, 40)
                assert set(pyro.get_param_store().keys()) == set(model.param_nodes) == registered
            got.append((guide.log_prob_sum(), model.log_prob_sum(), model.nodes["_RETURN"]["value"]))
            assert torch.equal(guide.nodes["_RETURN"]["value"], guide.nodes["z"]["value"])
        for values in zip(*got, strict=True):
            assert torch.equal(values[0], values[1])
            assert torch.equal(values[0], values[2])

    def test_an_error_ends_the_context_without_registration(self):
        vae = make_vae()
        with pytest.raises(ValueError, match="got list"), unregistered():
            vae.model([1.0])
        vae.model(torch.randn(2, 5, 3, dtype=torch.float64))
        assert pyro.get_param_store().keys()

    def test_two_models_under_two_names(self):
        first, second = make_vae(), make_vae(seed=1)
        second.name = "others"
        clouds = torch.randn(2, 5, 3, dtype=torch.float64)
        for vae in (first, second):
            vae.model(clouds)
        prefixes = {key.split("$$$")[0] for key in pyro.get_param_store()}
        assert prefixes == {"clouds", "others"}

    def test_sites_and_plates(self):
        vae = make_vae()
        clouds = torch.randn(5, 7, 3, dtype=torch.float64)
        for call in (vae.model, vae.guide):
            trace = poutine.trace(call).get_trace(clouds, dataset_size=50)
            (frame,) = trace.nodes["z"]["cond_indep_stack"]
            assert (frame.name, frame.size, frame.dim) == ("clouds", 5, -1)
            assert float(trace.nodes["z"]["scale"]) == 10
        trace = poutine.trace(vae.model).get_trace(clouds, dataset_size=50)
        assert torch.equal(trace.nodes["x"]["value"], clouds)
        assert trace.observation_nodes == ["x"]
        assert [name for name in trace.stochastic_nodes if name != "clouds"] == ["z"]
        torch.manual_seed(1)
        with torch.no_grad():
            poutine.condition(vae.model, data={"z": torch.zeros(5, 4).double()})(clouds, dataset_size=50)
            assert torch.equal(torch.randn(3), torch.randn(3, generator=torch.Generator().manual_seed(1)))

    @pytest.mark.parametrize(
        ("name", "prior"),
        [
            ("trace", "flow"),
            ("trace", "normal"),
            ("trace-loop", "flow"),
            ("graph", "flow"),
            ("renyi", "flow"),
            ("mean_field", "normal"),
            ("jit", "flow"),
        ],
    )
    @pytest.mark.parametrize("masked", [False, True])
    def test_svi_lowers_the_loss(self, name, prior, masked):
        losses = {
            "trace": Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1),
            "trace-loop": Trace_ELBO(num_particles=2),
            "graph": TraceGraph_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1),
            "renyi": RenyiELBO(alpha=0.5, num_particles=8, vectorize_particles=True, max_plate_nesting=1),
            "mean_field": TraceMeanField_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1),
            "jit": JitTrace_ELBO(
                num_particles=8, vectorize_particles=True, max_plate_nesting=1, ignore_jit_warnings=True
            ),
        }
        vae = make_vae(prior=prior)
        clouds, mask = ragged(padding=torch.nan)
        arguments = (clouds, mask) if masked else (torch.randn(4, 6, 3, dtype=torch.float64),)
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), losses[name])
        before = vae.decoder.transform.parts[0].conditioner.output.weight.detach().clone()
        values = [svi.step(*arguments) for _ in range(25)]
        assert all(math.isfinite(value) for value in values)
        assert sum(values[-5:]) < sum(values[:5]) - 5
        assert not torch.equal(before, vae.decoder.transform.parts[0].conditioner.output.weight)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["trace", "graph", "mean_field", "jit"])
    def test_every_bound_has_the_same_mean(self, name):
        """Within four standard errors, particles looped over and vectorised, with everything that scales."""
        vae = make_vae(prior="normal", num_classes=2, noise_input=True)
        clouds, mask = ragged()
        options = {
            "labels": torch.tensor([0, 1, 1, 0]),
            "noise_level": torch.rand(4, dtype=torch.float64),
            "num_points": torch.tensor([0, 3, 12, 12]),
        }
        q = vae.encode(clouds, mask, labels=options["labels"])
        with torch.no_grad():
            draws = []
            for z in q.sample((1000,)):
                density = vae.decode(z, mask=mask, labels=options["labels"], noise_level=options["noise_level"])
                weights = torch.tensor([1.0, 3.0, 2.0, 3.0], dtype=torch.float64)
                log_weights = weights * density.log_prob(clouds) + Normal(0, 1).log_prob(z).sum(-1) - q.log_prob(z)
                draws.append(log_weights.sum())
        draws = torch.stack(draws)
        kind = {"trace": Trace_ELBO, "graph": TraceGraph_ELBO, "mean_field": TraceMeanField_ELBO}.get(
            name, partial(JitTrace_ELBO, ignore_jit_warnings=True)
        )
        for particles, vectorize in ((1000, True), (40, False)):
            loss = kind(num_particles=particles, vectorize_particles=vectorize, max_plate_nesting=1)
            # torch.jit traces positional tensors only.
            got = -loss.loss(partial(vae.model, **options), partial(vae.guide, **options), clouds, mask)
            error = draws.std() * (1 / particles + 1 / 1000) ** 0.5
            assert abs(got - draws.mean()) < 4 * error
            assert error < 0.2 * draws.std()

    def test_a_mean_field_bound_has_its_divergence_in_closed_form(self):
        vae = make_vae(prior="normal", num_classes=2)
        clouds, mask = ragged()
        labels = torch.tensor([0, 1, 1, 0])
        got = elbo_of(vae, clouds, mask, 12, loss=TraceMeanField_ELBO(), labels=labels, kl_weight=0.5)
        z = latents_of(vae, clouds, mask, labels=labels)
        likelihood = terms_by_hand(vae, z, clouds, SIZES, labels=labels)[0].sum()
        q = vae.encode(clouds, mask, labels=labels)
        divergence = 0.5 * (q.variance + q.mean.square() - 1 - q.variance.log()).sum()
        torch.testing.assert_close(got, 3 * (likelihood - 0.5 * divergence))

    @pytest.mark.parametrize("prior", ["normal", "flow"])
    def test_a_renyi_bound_of_alpha_zero_is_log_prob(self, prior):
        vae = make_vae(prior=prior)
        clouds, mask = ragged()
        loss = RenyiELBO(alpha=0, num_particles=6, vectorize_particles=True, max_plate_nesting=1)
        torch.manual_seed(5)
        got = -loss.loss(vae.model, vae.guide, clouds, mask)
        torch.manual_seed(5)
        expected = vae.log_prob(clouds, mask, num_particles=6).sum().item()
        assert got == pytest.approx(expected)

    def test_the_whole_module_trains_as_a_torch_module(self):
        vae = make_vae()
        clouds = torch.randn(4, 6, 3, dtype=torch.float64)
        optimizer = torch.optim.Adam(vae.parameters(), lr=0.01)
        losses = []
        for _ in range(20):
            optimizer.zero_grad()
            with unregistered():
                loss = Trace_ELBO().differentiable_loss(vae.model, vae.guide, clouds)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert sum(losses[-5:]) < sum(losses[:5]) - 5
        assert not pyro.get_param_store().keys()


class TestDrawing:
    def test_a_reconstruction_is_drawn_at_the_mean_of_the_posterior(self):
        vae = make_vae()
        clouds = torch.randn(2, 7, 3, dtype=torch.float64)
        torch.manual_seed(1)
        got = vae.reconstruct(clouds, 11)
        torch.manual_seed(1)
        assert torch.equal(got, vae.decode(vae.encode(clouds).mean, 11).sample().detach())

    @pytest.mark.parametrize("prior", ["normal", "flow"])
    def test_a_walk_ends_at_its_ends_with_the_same_noise(self, prior):
        vae = make_vae(prior=prior)
        a, b = torch.randn(2, 7, 3, dtype=torch.float64), torch.randn(2, 5, 3, dtype=torch.float64)
        torch.manual_seed(1)
        walk = vae.interpolate(a, b, 5, 11)
        after = torch.get_rng_state()
        for cloud, end in ((a, walk[0]), (b, walk[-1])):
            torch.manual_seed(1)
            expected = vae.decode(vae.encode(cloud).mean, 11).sample()
            torch.testing.assert_close(end, expected, rtol=1e-7, atol=1e-7)
            assert torch.equal(torch.get_rng_state(), after)
        # Between them, too, it is the same noise.
        seen = []
        decode = vae.decode
        vae.decode = lambda z, *args, **options: seen.append(z) or decode(z, *args, **options)
        vae.interpolate(a, b, 5, 11)
        del vae.decode
        for z, step in zip(seen, walk, strict=True):
            torch.manual_seed(1)
            torch.testing.assert_close(vae.decode(z, 11).sample(), step)

    def test_a_walk_from_a_cloud_to_itself_stands_still(self):
        vae = make_vae()
        cloud = torch.randn(7, 3, dtype=torch.float64)
        walk = vae.interpolate(cloud, cloud, 3, 11)
        torch.testing.assert_close(walk, walk[:1].expand_as(walk), rtol=1e-8, atol=1e-8)

    def test_a_walk_needs_two_ends(self):
        vae = make_vae()
        cloud = torch.randn(7, 3, dtype=torch.float64)
        with pytest.raises(ValueError, match="steps=1"):
            vae.interpolate(cloud, cloud, 1, 11)


class TestBatches:
    def test_a_change_of_units_changes_the_density_alone(self):
        """Clouds a thousand times larger are that much less dense, and their latents are the same."""
        clouds = torch.randn(6, 20, 3, dtype=torch.float64)
        bounds, means = [], []
        for scale in (1.0, 1000.0):
            vae = make_vae()
            vae.normalize(scale * clouds)
            torch.manual_seed(5)
            bounds.append(vae.log_prob(scale * clouds, num_particles=3))
            means.append(vae.encode(scale * clouds).mean)
        torch.testing.assert_close(means[0], means[1])
        torch.testing.assert_close(bounds[1], bounds[0] - 20 * 3 * math.log(1000))

    def test_one_cloud_without_a_batch_is_no_batch(self):
        """`model` and `guide` take `(B, N, D)`: one cloud must not become a batch of points."""
        vae = make_vae()
        cloud = torch.randn(7, 3, dtype=torch.float64)
        for call in (vae.model, vae.guide):
            with pytest.raises(ValueError, match=r"batch|shape"):
                call(cloud)


@pytest.mark.filterwarnings("ignore:what was found may be wrong")  # clouds that are no shapes
class TestCompletion:
    def test_the_posterior_of_a_partial_cloud_is_exact(self):
        known = make_conjugate(strength=0.5)
        vae = make_vae(latent_dim=2, prior="normal")
        vae.decoder = known.flow
        seen = known.flow.cloud(torch.randn(2, dtype=torch.float64), num_points=8).sample()
        torch.manual_seed(0)
        result = pcf.complete(vae, seen, 12, num_samples=300, num_steps=40)
        assert result.clouds.shape == (300, 12, 3)
        assert torch.equal(result.clouds[:, :8], seen.expand(300, 8, 3))
        exact = known.posterior(seen)
        draws = result.latents["z"]
        assert draws.shape == (300, 2)
        assert ((draws.mean(0) - exact.mean).abs() < 0.35 * exact.stddev).all()
        assert ((draws.std(0) / exact.stddev).log().abs() < 0.35).all()

    @pytest.mark.parametrize("options", [{}, {"num_classes": 2}, {"num_flows": 2}, {"noise_input": True}])
    def test_every_model_can_be_completed(self, options):
        vae = make_vae(**options)
        seen = torch.randn(6, 3, dtype=torch.float64)
        labels = torch.tensor(1) if vae.num_classes else None
        result = pcf.complete(vae, seen, 9, labels=labels, num_samples=2, num_steps=5)
        assert result.clouds.isfinite().all()
        assert torch.equal(result.clouds[:, :6], seen.expand(2, 6, 3))
        assert all(parameter.grad is None for parameter in vae.parameters())
        assert not pyro.get_param_store().keys()

    def test_a_batch_has_a_latent_for_each_cloud(self):
        vae = make_vae()
        seen = torch.randn(5, 6, 3, dtype=torch.float64)
        result = pcf.complete(vae, seen, 9, num_samples=2, num_steps=5)
        assert result.latents["z"].shape == (2, 5, vae.latent_dim)
        assert torch.equal(result.clouds[:, :, :6], seen.expand(2, 5, 6, 3))


def test_log_prob_takes_latents_from_the_distribution_that_is_given():
    """The density of one latent, where all are drawn at one place: no encoder is asked."""
    vae = pcf.PointCloudVAE(2, latent_dim=2, prior="normal", decoder={"num_couplings": 2, "hidden_dims": [8]}).double()
    clouds, place = torch.randn(3, 20, 2).double(), torch.randn(3, 2).double()
    narrow = torch.distributions.Independent(torch.distributions.Normal(place, 1e-9), 1)
    vae.encode = None
    with torch.no_grad():
        expected = vae.decode(place, 20).log_prob(clouds) + vae.latent_prior().log_prob(place)
        found = vae.log_prob(clouds, num_particles=1, posterior=narrow)
    # The draw's own density is that of a normal somewhere within a few of its scales.
    entropy = 2 * (math.log(2 * math.pi) / 2 + math.log(1e-9))
    assert ((found - expected - entropy) >= -1e-6).all()
    assert ((found - expected - entropy) < 30).all()
