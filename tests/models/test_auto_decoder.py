"""Embeddings of training clouds, and of new ones against posteriors in closed form."""

from __future__ import annotations

import copy
import pickle

import pyro
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch.distributions import Normal

import pyro_pcflow as pcf
from helpers.conjugate import make_conjugate
from pyro_pcflow.models import AutoDecoder, unregistered

DECODER = {"num_couplings": 2, "hidden_dims": [8], "activation": "tanh"}
PRIOR = {"num_couplings": 2, "hidden_dims": [8]}


def make(num_clouds=5, latent_dim=4, **options):
    """Small, in float64, with weights that make everything depend on everything."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        options = {"decoder": DECODER, **options}
        if options.get("prior") != "normal":
            options.setdefault("prior_options", PRIOR)
        model = AutoDecoder(num_clouds, 3, latent_dim, **options)
        pcf.testing.randomize_parameters(model, 0.3)
        model.normalize(3 + 2 * torch.randn(50, 3))
        return model.double()


def make_known(num_clouds=3, strength=0.5):
    known = make_conjugate(strength=strength)
    model = make(num_clouds, latent_dim=2, prior="normal")
    model.decoder = known.flow
    return model, known


def some_clouds(count, num_points=6):
    return 3 + 2 * torch.randn(count, num_points, 3, dtype=torch.float64)


class TestEmbeddings:
    def test_each_cloud_has_a_mean_and_a_scale(self):
        model = make()
        q = model.embedding(torch.tensor([3, 0, 3]))
        assert (q.batch_shape, q.event_shape) == ((3,), (4,))
        assert torch.equal(q.mean, model.embedding_loc[[3, 0, 3]])
        torch.testing.assert_close(q.stddev, torch.log1p(model.embedding_raw_scale[[3, 0, 3]].exp()) + 1e-4)
        assert model.embedding(torch.tensor(2)).batch_shape == ()

    def test_a_new_embedding_is_known_to_a_tenth(self):
        q = AutoDecoder(50, latent_dim=8, decoder=DECODER).embedding(torch.arange(50))
        torch.testing.assert_close(q.stddev, torch.full((50, 8), 0.1), rtol=0.01, atol=0)
        assert 0.05 < q.mean.std() < 0.2
        assert len(q.mean.unique(dim=0)) == 50

    def test_the_guide_takes_the_embeddings_of_its_index(self):
        model = make()
        index = torch.tensor([4, 1])
        trace = poutine.trace(model.guide).get_trace(some_clouds(2), dataset_size=5, index=index)
        node = trace.nodes["z"]
        assert torch.equal(node["fn"].mean, model.embedding_loc[index])
        assert float(node["scale"]) == 2.5
        # All of them, in order, by default.
        trace = poutine.trace(model.guide).get_trace(some_clouds(5))
        assert torch.equal(trace.nodes["z"]["fn"].mean, model.embedding_loc)

    def test_the_bound_by_hand(self):
        model = make(num_classes=2, noise_input=True)
        clouds, index = some_clouds(2), torch.tensor([4, 1])
        mask = torch.tensor([[True] * 6, [True] * 2 + [False] * 4])
        labels, level = torch.tensor([1, 0]), torch.tensor([0.2, 0.9], dtype=torch.float64)
        options = {"index": index, "labels": labels, "noise_level": level, "kl_weight": 0.5}
        torch.manual_seed(1)
        bound = -Trace_ELBO().differentiable_loss(model.model, model.guide, clouds, mask, 10, **options)
        torch.manual_seed(1)
        z = model.embedding(index).sample()
        expected = 0.0
        for i, size in enumerate((6, 2)):
            onehot = F.one_hot(labels[i], 2).double()
            context = torch.cat([z[i], onehot, level[i : i + 1]])
            expected = expected + sum(model.decoder.log_prob(clouds[i, n], context) for n in range(size))
            expected = expected + 0.5 * (
                model.prior.log_prob(z[i], onehot)
                - Normal(model.embedding(index[i]).mean, model.embedding(index[i]).stddev).log_prob(z[i]).sum()
            )
        torch.testing.assert_close(bound, 5 * expected)

    def test_only_embeddings_of_the_batch_and_the_flow_have_gradients(self):
        model = make()
        index = torch.tensor([4, 1])
        Trace_ELBO().differentiable_loss(model.model, model.guide, some_clouds(2), index=index).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad.any(), name
        for parameter in (model.embedding_loc, model.embedding_raw_scale):
            assert parameter.grad.any(-1).tolist() == [False, True, False, False, True]

    def test_the_store_holds_the_embeddings(self):
        model = make()
        model.model(some_clouds(5))
        assert {f"clouds$$${name}" for name, _ in model.named_parameters()} == set(pyro.get_param_store().keys())
        assert "clouds$$$embedding_loc" in pyro.get_param_store()

    @pytest.mark.parametrize("prior", ["normal", "flow"])
    def test_svi_finds_the_posterior_of_every_training_cloud(self, prior):
        """Of a frozen flow; with a frozen prior that is standard normal, whichever it is."""
        model, known = make_known(3)
        if prior == "flow":
            model.prior = pcf.models.latent_flow(2, **PRIOR).double().requires_grad_(False)
        model.eval()
        clouds = known.flow.cloud(torch.randn(3, 2, dtype=torch.float64), num_points=5).sample()
        elbo = Trace_ELBO(num_particles=16, vectorize_particles=True, max_plate_nesting=1)
        svi = SVI(model.model, model.guide, pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.985}), elbo)
        for _ in range(250):
            svi.step(clouds)
        exact, q = known.posterior(clouds), model.embedding(torch.arange(3))
        scale = exact.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
        assert ((q.mean - exact.mean).abs() < 0.15 * scale).all()
        assert ((q.stddev / scale).log().abs() < 0.15).all()


class TestEncode:
    def test_new_clouds_have_the_posterior_in_closed_form(self):
        """Clouds of 5, 1 and 0 points in one batch; the best independent normals have the scales of conditionals."""
        model, known = make_known()
        mask = torch.arange(5) < torch.tensor([5, 1, 0]).unsqueeze(-1)
        clouds = known.flow.cloud(torch.randn(3, 2, dtype=torch.float64), mask=mask).sample()
        clouds = torch.where(mask.unsqueeze(-1), clouds, torch.nan)
        exact, q = known.posterior(clouds, mask), model.encode(clouds, mask, num_steps=400)
        scale = exact.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
        assert ((q.mean - exact.mean).abs() < 0.25 * scale).all()
        assert ((q.stddev / scale).log().abs() < 0.25).all()

    def test_more_steps_come_nearer(self):
        model, known = make_known()
        clouds = known.flow.cloud(torch.randn(20, 2, dtype=torch.float64), num_points=5).sample()
        exact = known.posterior(clouds)
        errors = [
            (model.encode(clouds, num_steps=steps).mean - exact.mean).square().mean().item() for steps in (3, 300)
        ]
        assert errors[1] < 0.1 * errors[0]

    @pytest.mark.parametrize("options", [{}, {"num_classes": 2}, {"num_flows": 2}, {"noise_input": True}])
    def test_no_gradient_gathers_and_nothing_leaks(self, options):
        model = make(**options)
        labels = torch.tensor([0, 1]) if model.num_classes else None
        modes = [(module, module.training) for module in model.modules()]
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                q = model.encode(some_clouds(2), num_steps=3, labels=labels)
                assert torch.is_grad_enabled() == grad
        assert torch.is_grad_enabled()
        assert not q.mean.requires_grad
        assert not q.stddev.requires_grad
        assert all(parameter.grad is None for parameter in model.parameters())
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert all(module.training == mode for module, mode in modes)
        assert not pyro.get_param_store().keys()
        kept = model.embedding_loc.grad = torch.ones_like(model.embedding_loc)
        model.encode(some_clouds(2), num_steps=3, labels=labels)
        assert model.embedding_loc.grad is kept
        assert kept.eq(1).all()

    def test_an_error_in_it_leaves_the_mode(self):
        model = make()
        with torch.no_grad():
            with pytest.raises(ValueError, match="finite"):
                model.encode(torch.full((2, 5, 3), torch.nan, dtype=torch.float64), num_steps=2)
            assert not torch.is_grad_enabled()

    def test_it_works_in_inference_mode(self):
        model = make()
        clouds = some_clouds(2)
        with torch.inference_mode():
            assert model.encode(clouds, num_steps=2).mean.isfinite().all()

    def test_frozen_weights_and_data_with_a_gradient(self):
        model = make().requires_grad_(False)
        clouds = some_clouds(2).requires_grad_()
        assert not model.encode(clouds, num_steps=3).mean.requires_grad
        assert clouds.grad is None

    def test_shapes_and_seeds(self):
        model = make()
        clouds = some_clouds(6).reshape(2, 3, 6, 3)
        draws = []
        for _ in range(2):
            torch.manual_seed(1)
            q = model.encode(clouds, num_steps=4)
            draws.append(q.mean)
        assert torch.equal(*draws)
        assert q.batch_shape == (2, 3)
        assert model.encode(clouds[0, 0], num_steps=2).batch_shape == ()
        torch.manual_seed(1)
        assert model.reconstruct(clouds, 7).shape == (2, 3, 7, 3)
        assert model.interpolate(clouds[0], clouds[1], 3, 7).shape == (3, 3, 7, 3)
        assert model.sample(2, 7).shape == (2, 7, 3)
        assert model.log_prob(clouds, num_particles=2).shape == (2, 3)

    def test_latents_of_a_part_by_complete(self):
        model, known = make_known()
        seen = known.flow.cloud(torch.randn(2, dtype=torch.float64), num_points=6).sample()
        result = pcf.complete(model, seen, 9, num_samples=200, num_steps=40)
        exact = known.posterior(seen)
        assert torch.equal(result.clouds[:, :6], seen.expand(200, 6, 3))
        assert ((result.latents["z"].mean(0) - exact.mean).abs() < 0.4 * exact.stddev).all()


class TestErrors:
    def test_a_batch_needs_an_index(self):
        model = make()
        with pytest.raises(ValueError, match="batch of 2 of 5 training clouds needs an index"):
            model.guide(some_clouds(2))

    @pytest.mark.parametrize("index", [[5, 0], [-1, 0], [0], [0, 1, 2]])
    def test_a_wrong_index(self, index):
        """A negative one would be another cloud's."""
        model = make()
        with pytest.raises((ValueError, IndexError)):
            model.guide(some_clouds(2), index=torch.tensor(index))

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"num_clouds": 0}, "num_clouds=0"),
            ({"latent_dim": 0}, "latent_dim"),
            ({"prior": "uniform"}, "flow, normal"),
            ({"num_flows": 0}, "num_flows"),
        ],
    )
    def test_wrong_sizes_and_names(self, options, words):
        with pytest.raises(ValueError, match=words):
            AutoDecoder(**{"num_clouds": 5, "latent_dim": 4, "decoder": DECODER, **options})

    def test_wrong_clouds_and_labels(self):
        model = make(num_classes=2)
        clouds = some_clouds(2)
        with pytest.raises(ValueError, match=r"\(\*batch, N, 3\)"):
            model.encode(clouds[..., :2], labels=torch.tensor([0, 1]))
        with pytest.raises(ValueError, match="mask"):
            model.encode(clouds, torch.ones(2, 5) > 0, labels=torch.tensor([0, 1]))
        with pytest.raises(TypeError, match="give labels"):
            model.encode(clouds)
        with pytest.raises(ValueError, match="from 0 to 1"):
            model.encode(clouds, labels=torch.tensor([0, 2]))


@pytest.mark.parametrize("options", [{}, {"prior": "normal", "num_classes": 2}, {"num_flows": 2, "noise_input": True}])
@pytest.mark.parametrize("how", ["save", "deepcopy", "pickle"])
def test_a_copy_is_the_same_model(tmp_path, options, how):
    model = make(**options)
    labels = torch.arange(5) % 2 if model.num_classes else None
    clouds = some_clouds(5)

    def bound(module):
        torch.manual_seed(5)
        with torch.no_grad(), unregistered():  # Pyro cannot pickle parameters that it has registered
            return -Trace_ELBO().differentiable_loss(module.model, module.guide, clouds, labels=labels)

    expected = bound(model)
    if how == "save":
        pcf.save(model, tmp_path / "model.pt")
        twin = pcf.load(tmp_path / "model.pt")
    else:
        twin = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
    assert type(twin) is AutoDecoder
    assert twin.num_clouds == 5
    assert twin.normalized
    assert torch.equal(bound(twin), expected)
