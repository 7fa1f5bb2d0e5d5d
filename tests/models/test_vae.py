"""The variational autoencoder: encoders, masks, classes, noise levels, units and copies."""

from __future__ import annotations

import copy
import math
import pickle

import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pyro_pcflow as pcf
from helpers.small_vae import DECODER, ENCODER, SIZES, elbo_of, latents_of, make_vae, ragged, terms_by_hand


class TestMasks:
    @pytest.mark.parametrize("prior", ["normal", "flow"])
    def test_clouds_of_different_sizes_are_what_they_are_one_by_one(self, prior):
        vae = make_vae(prior=prior)
        clouds, mask = ragged(padding=torch.nan)
        q = vae.encode(clouds, mask)
        z = torch.randn(len(SIZES), 4, dtype=torch.float64)
        density = vae.decode(z, mask=mask)
        for i, size in enumerate(SIZES):
            alone = vae.encode(clouds[i, :size])
            torch.testing.assert_close(q.mean[i], alone.mean)
            torch.testing.assert_close(q.stddev[i], alone.stddev)
            expected = vae.decode(z[i], size).log_prob(clouds[i, :size])
            torch.testing.assert_close(density.log_prob(clouds)[i], expected)

    def test_padding_has_no_gradient(self):
        vae = make_vae()
        clouds, mask = ragged(padding=torch.nan)
        elbo_of(vae, clouds, mask).backward()
        for name, value in vae.named_parameters():
            assert value.grad is not None, name
            assert value.grad.isfinite().all(), name

    def test_every_parameter_has_a_gradient(self):
        vae = make_vae(num_classes=2, noise_input=True, num_flows=2, decoder={**DECODER, "base": "conditional"})
        clouds = torch.randn(6, 9, 3, dtype=torch.float64)
        labels, level = torch.arange(6) % 2, torch.rand(6, dtype=torch.float64)
        elbo_of(vae, clouds, labels=labels, noise_level=level).backward()
        assert [name for name, value in vae.named_parameters() if value.grad is None or not value.grad.any()] == []

    def test_the_order_of_points_does_not_matter(self):
        vae = make_vae()
        clouds = torch.randn(2, 9, 3, dtype=torch.float64)
        torch.testing.assert_close(
            elbo_of(vae, clouds[:, torch.randperm(9)]), elbo_of(vae, clouds), rtol=1e-9, atol=1e-9
        )


class TestClasses:
    @pytest.mark.parametrize("prior", ["normal", "flow"])
    def test_labels_reach_encoder_prior_and_decoder(self, prior):
        vae = make_vae(num_classes=3, prior=prior)
        cloud, z = torch.randn(7, 3, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
        labels = torch.arange(3)
        q = vae.encode(cloud.expand(3, 7, 3), labels=labels)
        density = vae.decode(z.expand(3, 4), 7, labels=labels).log_prob(cloud)
        log_prior = vae.latent_prior(labels).log_prob(z)
        for values in (q.mean[:, 0], q.stddev[:, 0], density, *([log_prior] if prior == "flow" else [])):
            assert values.shape == (3,)
            assert len(set(values.tolist())) == 3
        assert vae.latent_prior(labels).batch_shape == (3,)
        # One label at a time is the same.
        for label in range(3):
            torch.testing.assert_close(vae.encode(cloud, labels=torch.tensor(label)).mean, q.mean[label])
            torch.testing.assert_close(vae.decode(z, 7, labels=torch.tensor(label)).log_prob(cloud), density[label])
            torch.testing.assert_close(vae.latent_prior(torch.tensor(label)).log_prob(z), log_prior[label])

    def test_samples_are_of_their_class(self):
        """A decoder that ignores its latent and moves each class elsewhere."""
        vae = make_vae(num_classes=2, decoder={**DECODER, "base": "conditional"})
        with torch.no_grad():
            for name, parameter in vae.decoder.named_parameters():
                if name.endswith("conditioner.output.weight") or name.endswith("conditioner.output.bias"):
                    parameter.zero_()
            network = vae.decoder.base.network
            network.weight.zero_()
            network.bias.zero_()
            network.weight[:3, 4], network.weight[:3, 5] = -40.0, 40.0
        labels = torch.tensor([0, 1, 1])
        clouds = vae.sample(3, 100, labels=labels)
        centres = vae.units.inv(clouds).mean((1, 2))
        torch.testing.assert_close(centres, torch.tensor([-40.0, 40.0, 40.0]).double(), atol=1.0, rtol=0)
        again = vae.units.inv(vae.reconstruct(clouds, 100, labels=labels.flip(0))).mean((1, 2))
        torch.testing.assert_close(again, torch.tensor([40.0, 40.0, -40.0]).double(), atol=1.0, rtol=0)

    def test_missing_and_wrong_labels(self):
        vae = make_vae(num_classes=3)
        clouds, z = torch.randn(2, 7, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
        calls = {
            "model": lambda **options: vae.model(clouds, **options),
            "guide": lambda **options: vae.guide(clouds, **options),
            "encode": lambda **options: vae.encode(clouds, **options),
            "decode": lambda **options: vae.decode(z, 7, **options),
            "sample": lambda **options: vae.sample(2, 5, **options),
            "reconstruct": lambda **options: vae.reconstruct(clouds, 5, **options),
            "interpolate": lambda **options: vae.interpolate(clouds, clouds, 3, 5, **options),
            "log_prob": lambda **options: vae.log_prob(clouds, None, 2, **options),
            "point_model": lambda **options: vae.point_model(**options),
        }
        for name, call in calls.items():
            call(labels=torch.tensor([0, 2]))
            with pytest.raises(TypeError, match="3 classes: give labels"):
                call()
            for wrong in (torch.tensor([0, 3]), torch.tensor([-1, 0]), torch.tensor([0.0, 1.0]), [0, 1]):
                with pytest.raises(ValueError, match="whole numbers from 0 to 2"):
                    call(labels=wrong)
            if name != "point_model":
                with pytest.raises((ValueError, RuntimeError)):
                    call(labels=torch.tensor([0, 1, 2]))
        without = make_vae()
        for call in (without.model, without.guide, without.encode):
            with pytest.raises(ValueError, match="without classes"):
                call(clouds, labels=torch.tensor([0, 1]))


class TestNoiseInput:
    def test_samples_and_reconstructions_have_no_noise(self):
        vae = make_vae(noise_input=True)
        deaf = copy.deepcopy(vae)
        with torch.no_grad():
            for name, parameter in deaf.decoder.named_parameters():
                if name.endswith("conditioner.shift.weight"):
                    parameter[:, -1] = 0
        clouds, z = torch.randn(2, 7, 3, dtype=torch.float64), torch.zeros(2, 4, dtype=torch.float64)
        for call in (
            lambda model: model.sample(2, 5),
            lambda model: model.reconstruct(clouds, 5),
            lambda model: model.interpolate(clouds, clouds, 2, 5),
            lambda model: model.point_model().sample(),
        ):
            draws = []
            for model in (vae, deaf):
                torch.manual_seed(1)
                draws.append(call(model))
            assert torch.equal(*draws)
        noisy = [model.decode(z, 7, noise_level=1.0).log_prob(clouds) for model in (vae, deaf)]
        assert not torch.allclose(*noisy)

    def test_a_model_without_it_ignores_the_level(self):
        vae = make_vae()
        clouds = torch.randn(2, 7, 3, dtype=torch.float64)
        assert torch.equal(elbo_of(vae, clouds, noise_level=0.7), elbo_of(vae, clouds))


class TestDrawing:
    @pytest.mark.parametrize("options", [{}, {"prior": "normal"}, {"num_flows": 2}, {"noise_input": True}])
    def test_shapes_seeds_and_finiteness(self, options):
        vae = make_vae(**options)
        clouds, others = torch.randn(2, 7, 3, dtype=torch.float64), torch.randn(2, 5, 3, dtype=torch.float64)
        mask = torch.rand(2, 7) < 0.7
        calls = {
            (3, 11, 3): lambda: vae.sample(3, 11),
            (2, 11, 3): lambda: vae.reconstruct(clouds, 11, mask),
            (11, 3): lambda: vae.reconstruct(clouds[0], 11),
            (4, 2, 11, 3): lambda: vae.interpolate(clouds, others, 4, 11),
            (4, 11, 3): lambda: vae.interpolate(clouds[0], others[0], 4, 11),
        }
        for shape, call in calls.items():
            torch.manual_seed(1)
            first, state = call(), torch.get_rng_state()
            second = call()
            torch.manual_seed(1)
            assert torch.equal(call(), first)
            assert torch.equal(torch.get_rng_state(), state)
            assert first.shape == shape
            assert first.isfinite().all()
            assert not first.requires_grad
            assert first.dtype == torch.float64
            assert not torch.equal(first, second)


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"prior": "uniform"}, "flow, normal, got 'uniform'"),
            ({"latent_dim": 0}, "latent_dim"),
            ({"num_classes": -1}, "num_classes"),
            ({"num_flows": 0}, "num_flows"),
            ({"decoder": {"hidden_dims": [0]}}, "hidden_dims"),
            ({"encoder": {"point_dims": []}}, "point_dims"),
        ],
    )
    def test_wrong_sizes_and_names(self, options, words):
        with pytest.raises(ValueError, match=words):
            pcf.PointCloudVAE(**{"latent_dim": 4, "decoder": DECODER, **options})

    def test_wrong_clouds_masks_and_latents(self):
        vae = make_vae()
        clouds = torch.randn(2, 7, 3, dtype=torch.float64)
        calls = (
            vae.model,
            vae.guide,
            vae.encode,
            lambda clouds, mask=None: vae.log_prob(clouds, mask, 2),
            lambda clouds, mask=None: vae.reconstruct(clouds, 5, mask),
        )
        for call in calls:
            for wrong in (clouds[..., :2], torch.zeros(2, 7, 4).double(), clouds[0, 0]):
                with pytest.raises(ValueError, match=r"\(\*batch, N, 3\), got shape"):
                    call(wrong)
            with pytest.raises(ValueError, match="got list"):
                call(clouds.tolist())
            for wrong in (torch.ones(2, 6) > 0, torch.ones(7) > 0, torch.ones(2, 7), torch.ones(2, 7, 3) > 0):
                with pytest.raises(ValueError, match=r"mask of booleans of shape \(2, 7\)"):
                    call(clouds, wrong)
        for call in (vae.model, vae.guide):
            with pytest.raises(ValueError, match=r"batch of 2 .* dataset_size=1"):
                call(clouds, dataset_size=1)
        for wrong in (torch.zeros(2, 3), torch.zeros(5), torch.tensor(1.0)):
            with pytest.raises(ValueError, match=r"latents as a tensor of shape \(\*batch, 4\)"):
                vae.decode(wrong.double(), 7)
        with pytest.raises(ValueError, match="num_particles=0"):
            vae.log_prob(clouds, num_particles=0)
        with pytest.raises(ValueError, match="num_points is missing"):
            vae.decode(torch.zeros(4).double())


class TestUnits:
    def test_a_new_model_knows_no_units(self):
        vae = pcf.PointCloudVAE(3, 4, decoder=DECODER, encoder=ENCODER)
        assert not vae.normalized
        vae.normalize(5 + torch.randn(100, 3))
        assert vae.normalized
        assert vae.decoder.normalized
        torch.testing.assert_close(vae.units.loc, vae.decoder.units.loc)

    @pytest.mark.parametrize("num_flows", [1, 2])
    def test_padding_has_no_part_in_the_units(self, num_flows):
        clouds, mask = ragged(padding=1e6)
        padded, alone = make_vae(num_flows=num_flows), make_vae(num_flows=num_flows)
        padded.normalize(clouds, mask)
        alone.normalize(clouds[mask])
        for name, value in alone.named_buffers():
            assert torch.equal(padded.get_buffer(name), value), name
        torch.testing.assert_close(padded.units.loc, clouds[mask].mean(0))

    def test_a_new_model_starts_at_its_prior(self):
        """Near it: the guide has a scale of about one."""
        vae = pcf.PointCloudVAE(3, 8, decoder=DECODER, encoder=ENCODER)
        q = vae.encode(torch.randn(50, 30, 3))
        assert 0.5 < q.stddev.mean() < 1.5
        assert q.mean.abs().mean() < 0.5
        z = torch.randn(10, 8)
        torch.testing.assert_close(
            vae.latent_prior().log_prob(z), dist.Normal(0, 1).expand([8]).to_event(1).log_prob(z)
        )


class MeanEncoder(nn.Module):
    """A network of every point and their mean: an encoder that a user would write."""

    def __init__(self, latent_dim, num_classes=0, width=8):
        super().__init__()
        self.config = {"latent_dim": latent_dim, "num_classes": num_classes, "width": width}
        self.points = nn.Linear(3, width)
        self.output = nn.Linear(width + num_classes, 2 * latent_dim)

    def forward(self, points, mask, *context):
        self.heard = points, mask, context
        hidden = self.points(points).tanh()
        if mask is not None:
            # Padding that held NaN would be NaN here.
            hidden = (hidden * mask.unsqueeze(-1)).sum(-2) / mask.sum(-1, keepdim=True).clamp(min=1)
        else:
            hidden = hidden.mean(-2)
        return self.output(torch.cat([hidden, *context], -1)).chunk(2, -1)


class TestOwnEncoder:
    @pytest.mark.parametrize("num_classes", [0, 2])
    def test_it_gives_the_parameters_of_the_posterior(self, num_classes):
        encoder = MeanEncoder(4, num_classes)
        vae = make_vae(encoder=encoder, num_classes=num_classes)
        assert vae.encoder is encoder
        clouds, mask = ragged(padding=torch.nan)
        labels = torch.tensor([1, 0, 1, 0]) if num_classes else None
        for there in (mask, None):
            given = torch.where(mask.unsqueeze(-1), clouds, 1.0) if there is None else clouds
            q = vae.encode(given, there, labels=labels)
            points, heard_mask, context = encoder.heard
            assert heard_mask is there
            torch.testing.assert_close(points[mask], (clouds[mask] - vae.units.loc) / vae.units.scale)
            assert there is None or not points[~mask].any()
            assert len(context) == (num_classes > 0)
            loc, raw_scale = encoder(points, there, *(F.one_hot(labels, 2).double() for _ in context))
            assert torch.equal(q.mean, loc)
            torch.testing.assert_close(q.stddev, F.softplus(raw_scale + math.log(math.e - 1)) + 1e-4)

    def test_it_is_trained_saved_and_loaded(self, tmp_path):
        torch.manual_seed(0)
        vae = pcf.PointCloudVAE(3, 4, decoder=DECODER, prior="normal", encoder=MeanEncoder(4))
        before = copy.deepcopy(vae.encoder.state_dict())
        clouds = torch.randn(6, 80, 3)
        logging = pcf.training.Logging(pictures=False)
        pcf.fit(vae, clouds, max_steps=3, held_out=0, out=tmp_path / "run", logging=logging, device="cpu")
        assert all((vae.encoder.state_dict()[name] != value).any() for name, value in before.items())
        twin = pcf.load(tmp_path / "run" / "model.pt", custom=[MeanEncoder])
        assert type(twin.encoder) is MeanEncoder
        assert torch.equal(twin.encode(clouds).mean, vae.encode(clouds).mean)
        with pytest.raises(ValueError, match=r"MeanEncoder.*custom=\[MyClass\]"):
            pcf.load(tmp_path / "run" / "model.pt")

    def test_without_a_config_it_cannot_be_saved(self, tmp_path):
        encoder = MeanEncoder(4)
        del encoder.config
        vae = pcf.PointCloudVAE(3, 4, decoder=DECODER, encoder=encoder)
        with pytest.raises(TypeError, match=r"config\['encoder'\] is a MeanEncoder"):
            pcf.save(vae, tmp_path / "vae.pt")
        assert not list(tmp_path.iterdir())

    def test_without_a_config_a_run_keeps_the_weights(self, tmp_path):
        encoder = MeanEncoder(4)
        del encoder.config
        vae = pcf.PointCloudVAE(3, 4, decoder=DECODER, prior="normal", encoder=encoder)
        options = {"held_out": 0, "out": tmp_path, "logging": pcf.training.Logging(pictures=False), "device": "cpu"}
        with pytest.warns(UserWarning, match=r"state_dict alone.*config\['encoder'\] is a MeanEncoder"):
            pcf.fit(vae, torch.randn(6, 80, 3), max_steps=3, **options)
        state = torch.load(tmp_path / "model.pt")
        assert torch.equal(state["encoder.points.weight"], encoder.points.weight)

    def test_a_copy_has_an_encoder_of_its_own(self):
        vae = make_vae(encoder=MeanEncoder(4))
        twin = copy.deepcopy(vae)
        assert twin.config["encoder"] is twin.encoder is not vae.encoder

    def test_ours_as_a_module_is_ours_as_options(self, tmp_path):
        torch.manual_seed(0)
        vae = pcf.PointCloudVAE(3, 4, decoder=DECODER, encoder=ENCODER)
        given = {**vae.encoder.config}
        assert given["output_dims"] == [4, 4]
        twin = pcf.PointCloudVAE(3, 4, decoder=DECODER, encoder=pcf.nn.CloudEncoder(**given))
        twin.load_state_dict(vae.state_dict())
        clouds = torch.randn(2, 7, 3)
        assert torch.equal(twin.encode(clouds).mean, vae.encode(clouds).mean)
        pcf.save(twin, tmp_path / "vae.pt")
        assert torch.equal(pcf.load(tmp_path / "vae.pt").encode(clouds).mean, vae.encode(clouds).mean)

    @pytest.mark.parametrize(
        ("output", "words"),
        [
            (torch.zeros(2, 4), r"got \(2, 4\)$"),
            ((torch.zeros(2, 4),) * 3, r"got \(2, 4\), \(2, 4\), \(2, 4\)"),
            ((torch.zeros(2, 4), torch.zeros(2, 3)), r"got \(2, 4\), \(2, 3\)"),
            ((torch.zeros(4), torch.zeros(4)), r"got \(4,\), \(4,\)"),
            ((torch.zeros(2, 4), None), r"got \(2, 4\), NoneType"),
            ((), "got nothing"),
        ],
    )
    def test_what_it_returns_is_checked(self, output, words):
        encoder = nn.Identity()
        encoder.forward = lambda points, mask: output
        vae = pcf.PointCloudVAE(3, 4, decoder=DECODER, encoder=encoder)
        with pytest.raises(ValueError, match=rf"two tensors of shape \(2, 4\) from the encoder Identity.*{words}"):
            vae.encode(torch.randn(2, 7, 3))

    @pytest.mark.parametrize("wrong", ["pointnet", MeanEncoder, lambda points, mask: points])
    def test_what_is_no_module(self, wrong):
        with pytest.raises(TypeError, match="options of CloudEncoder or a module as encoder, got"):
            pcf.PointCloudVAE(3, 4, decoder=DECODER, encoder=wrong)


VARIANTS = {
    "flow": {},
    "normal": {"prior": "normal"},
    "classes": {"num_classes": 3, "noise_input": True},
    "mixture": {"num_flows": 2, "decoder": {**DECODER, "base": "conditional"}},
    # Once: random weights twice over lead far away.
    "Gaussians": {"decoder": {"base": "mixture", "num_components": 5, "num_couplings": 0}, "num_corrections": 1},
    "masks": {"decoder": {**DECODER, "masks": ((True, False, False), (False, True, True)), "act_norm": True}},
    "plane": {"point_dim": 2},
}


class TestCopies:
    @pytest.mark.parametrize("name", VARIANTS)
    @pytest.mark.parametrize("how", ["save", "deepcopy", "pickle"])
    def test_a_copy_has_the_same_bound(self, tmp_path, name, how):
        vae = make_vae(**VARIANTS[name])
        clouds = torch.randn(3, 7, vae.point_dim, dtype=torch.float64)
        options = {"labels": torch.arange(3)} if vae.num_classes else {}

        def bound(module):
            torch.manual_seed(5)
            return module.log_prob(clouds, None, 3, **options)

        expected = bound(vae)
        if how == "save":
            pcf.save(vae, tmp_path / "vae.pt")
            twin = pcf.load(tmp_path / "vae.pt")
        else:
            twin = copy.deepcopy(vae) if how == "deepcopy" else pickle.loads(pickle.dumps(vae))
        assert type(twin) is pcf.PointCloudVAE
        assert torch.equal(bound(twin), expected)
        assert twin.normalized
        with torch.no_grad():
            next(twin.parameters()).add_(1.0)
        assert torch.equal(bound(vae), expected)
        torch.manual_seed(5)
        assert twin.sample(3, 4, **options).dtype == torch.float64

    def test_single_precision_is_near_and_back(self):
        vae = make_vae(num_classes=3, noise_input=True)
        clouds, labels = torch.randn(3, 7, 3, dtype=torch.float64), torch.arange(3)
        z = torch.randn(3, 4, dtype=torch.float64)
        expected = vae.decode(z, 7, labels=labels).log_prob(clouds)
        single = copy.deepcopy(vae).float()
        got = single.decode(z.float(), 7, labels=labels).log_prob(clouds.float())
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-3)
        assert single.sample(3, 4, labels=labels).dtype == torch.float32
        assert single.log_prob(clouds.float(), None, 2, labels=labels).dtype == torch.float32
        assert single.double().encode(clouds, labels=labels).mean.dtype == torch.float64


class TestPlane:
    def test_points_of_two_coordinates(self):
        vae = make_vae(point_dim=2, latent_dim=3)
        clouds, mask = ragged(point_dim=2, padding=torch.nan)
        bound = elbo_of(vae, clouds, mask)
        terms = terms_by_hand(vae, latents_of(vae, clouds, mask), clouds, SIZES)
        torch.testing.assert_close(bound, (terms[0] + terms[1] - terms[2]).sum())
        assert vae.sample(2, 5).shape == (2, 5, 2)
        assert vae.interpolate(clouds[2], clouds[2], 3, 5).shape == (3, 5, 2)
        with pytest.raises(ValueError, match=r"\(\*batch, N, 2\)"):
            vae.encode(torch.zeros(2, 5, 3))
