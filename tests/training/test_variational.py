"""Models of many clouds, trained by one call: what is minimised, what is reported, and that a run repeats."""

from __future__ import annotations

import json
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

import pyro_pcflow as pcf
from helpers.flat_fit import fit
from helpers.stand_ins import same_state
from pyro_pcflow.models import AutoDecoder
from pyro_pcflow.training import CloudSampling, Pictures, pictures, toml
from pyro_pcflow.training.cloud_batches import evaluation_batches
from pyro_pcflow.training.inputs import as_clouds as take_clouds
from pyro_pcflow.training.sources import Clouds
from pyro_pcflow.training.variational import EvidenceLowerBound

DECODER = {"num_couplings": 2, "hidden_dims": [8]}
PRIOR = {"num_couplings": 2, "hidden_dims": [8]}
ENCODER = {"point_dims": [8, 8], "hidden_dims": [8]}
OPTIONS = {"batch_size": 8, "target_points": 16, "encoder_points": 16, "device": "cpu", "warmup_steps": 5, "lr": 5e-3}


@pytest.fixture(autouse=True)
def _fresh_store():
    pyro.clear_param_store()


def small_vae(point_dim=3, latent_dim=2, **options):
    with torch.random.fork_rng():
        torch.manual_seed(11)
        options = {"decoder": DECODER, "encoder": ENCODER, **options}
        if options.get("prior") != "normal":
            options.setdefault("prior_options", PRIOR)
        return pcf.PointCloudVAE(point_dim, latent_dim, **options)


def some_clouds(count=40, num_points=80, point_dim=3, seed=5):
    """Gaussian clouds, each with a centre of its own."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(count, 1, point_dim, generator=generator)
    return 10 + centres + 0.5 * torch.randn(count, num_points, point_dim, generator=generator)


def ragged_clouds(sizes=(80, 0, 1, 64, 63, 7, 100, 30), repeats=4):
    clouds = some_clouds(len(sizes) * repeats, max(sizes))
    return [cloud[: sizes[i % len(sizes)]] for i, cloud in enumerate(clouds)]


class GaussianClouds(nn.Module):
    """A foreign model of clouds: each has a centre; the evidence is known."""

    def __init__(self, point_dim=3, scale=0.5, spread=2.0):
        super().__init__()
        self.point_dim = point_dim
        self.loc = nn.Parameter(torch.zeros(point_dim))
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.spread = spread
        self.calls = []

    def posterior_of(self, clouds, mask):
        count = torch.full(clouds.shape[:1], clouds.shape[1]) if mask is None else mask.sum(-1)
        precision = self.spread**-2 + count / self.log_scale.exp().square()
        total = (clouds if mask is None else torch.where(mask.unsqueeze(-1), clouds, 0.0)).sum(1)
        mean = total / self.log_scale.exp().square() + self.loc / self.spread**2
        return dist.Normal(mean / precision.unsqueeze(-1), precision.rsqrt().unsqueeze(-1)).to_event(1)

    def model(self, clouds, mask, size):
        self.calls.append((clouds, mask, size))
        with pyro.plate("clouds", size, subsample=torch.arange(len(clouds))):
            z = pyro.sample("z", dist.Normal(self.loc, self.spread).to_event(1))
            point = dist.Normal(z.unsqueeze(-2), self.log_scale.exp()).to_event(1)
            mask = torch.ones(clouds.shape[:2], dtype=torch.bool) if mask is None else mask
            pyro.sample("x", point.mask(mask).to_event(1), obs=clouds)

    def guide(self, clouds, mask, size):
        with pyro.plate("clouds", size, subsample=torch.arange(len(clouds))):
            pyro.sample("z", self.posterior_of(clouds, mask))

    def log_evidence(self, cloud):
        """Of one cloud `(N, D)`, by the chain rule: log p(x) = log p(x, z) - log p(z | x) at any z."""
        with torch.no_grad():
            z = torch.ones(self.point_dim)
            log_joint = dist.Normal(self.loc, self.spread).log_prob(z).sum()
            log_joint = log_joint + dist.Normal(z, self.log_scale.exp()).log_prob(cloud).sum()
            return float(log_joint - self.posterior_of(cloud.unsqueeze(0), None).log_prob(z))


class TestVAE:
    @pytest.mark.parametrize(
        "options",
        [{}, {"prior": "normal"}, {"num_flows": 2}, {"noise_input": True}],
        ids=["flow", "normal", "mixture", "noise"],
    )
    def test_a_short_run_learns(self, options):
        vae = small_vae(**options)
        result = fit(vae, some_clouds(), max_steps=80, noise=0.02, log_every=10, **{**OPTIONS, "lr": 0.02})
        losses = [line["loss"] for line in result.history]
        assert losses[-1] < losses[0] - 0.1
        assert math.isfinite(result.nats_per_point)
        assert vae.normalized
        assert result.steps == 80

    def test_the_scores_and_their_arithmetic(self):
        vae = small_vae()
        result = fit(vae, some_clouds(), max_steps=12, eval_every=6, patience=None, **OPTIONS)
        assert set(result.scores) == {"nats_per_point", "nats_per_cloud", "log_likelihood", "kl"}
        scores = result.scores
        assert scores["nats_per_cloud"] == pytest.approx(scores["log_likelihood"] - scores["kl"])
        assert scores["nats_per_point"] == pytest.approx(scores["nats_per_cloud"] / 80)
        assert result.nats_per_point == scores["nats_per_point"]
        assert scores["kl"] > -1
        evaluated = [line for line in result.history if "nats_per_point" in line]
        assert [line["step"] for line in evaluated] == [6, 12]
        assert scores.items() <= evaluated[-1].items()

    def test_the_score_is_the_bound_of_the_weights_left_in_the_module(self):
        """On average over latents; points of the second half, given an encoder that read the first."""
        vae, held_out = small_vae(prior="normal"), some_clouds(20, 101, seed=6)
        result = fit(vae, some_clouds(), held_out=held_out, max_steps=60, **OPTIONS)
        (batch,) = evaluation_batches(Clouds(held_out), 0, 0.0)
        assert (batch.encoder_points.shape[1], batch.clouds.shape[1]) == (50, 51)
        with torch.no_grad():
            q = vae.encode(batch.encoder_points)
            kl = 0.5 * (q.variance + q.mean.square() - 1 - q.variance.log()).sum(-1)
            likelihood = torch.stack([vae.decode(z, 51).log_prob(batch.clouds) for z in q.sample((400,))])
        bounds = 101 / 51 * likelihood - kl
        assert abs(result.scores["nats_per_cloud"] - bounds.mean().item()) < 4 * bounds.mean(1).std().item() + 0.5
        assert result.scores["log_likelihood"] == pytest.approx((101 / 51 * likelihood).mean().item(), rel=0.1)
        assert result.scores["kl"] == pytest.approx(kl.mean().item(), abs=1.5)

    def test_the_reported_bound_knows_no_warm_up(self):
        """At equal weights: a rate so small that nothing moves."""
        scores, losses = [], []
        for steps in (0, 1000):
            options = {**OPTIONS, "lr": 1e-12}
            result = fit(small_vae(), some_clouds(), max_steps=3, kl_warmup_steps=steps, ema_decay=0, **options)
            scores.append(result.scores)
            losses.append(result.history[-1]["loss"])
        assert scores[0] == pytest.approx(scores[1], rel=1e-6)
        assert losses[0] != losses[1]

    def test_warm_up_changes_what_is_learned(self):
        scores = [
            fit(small_vae(), some_clouds(), max_steps=20, kl_warmup_steps=steps, **OPTIONS).scores for steps in (0, 20)
        ]
        assert scores[0] != scores[1]

    def test_ragged_clouds_are_trained_on(self):
        vae = small_vae()
        result = fit(vae, ragged_clouds(), max_steps=30, held_out=0.25, **OPTIONS)
        assert math.isfinite(result.nats_per_point)
        scores = result.scores
        assert scores["nats_per_cloud"] == pytest.approx(scores["log_likelihood"] - scores["kl"])

    def test_a_batch_of_an_empty_cloud_does_not_diverge(self):
        """It has no points to divide by, and nothing to teach a decoder."""
        clouds = [some_clouds(1, 20)[0], torch.zeros(0, 3)]
        result = fit(small_vae(), clouds, max_steps=4, held_out=0, **{**OPTIONS, "batch_size": 1})
        assert all(math.isfinite(line["loss"]) for line in result.history)

    def test_units_are_those_of_training_clouds(self):
        vae, clouds = small_vae(), some_clouds() * 100
        fit(vae, clouds, held_out=torch.full((3, 20, 3), 1e5) + some_clouds(3, 20), max_steps=1, **OPTIONS)
        torch.testing.assert_close(vae.units.loc, clouds.mean((0, 1)), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(vae.decoder.units.loc, vae.units.loc)

    def test_nats_are_of_the_units_of_the_data(self):
        scores = []
        for factor in (1.0, 50.0):
            vae = small_vae().double()
            scores.append(fit(vae, some_clouds().double() * factor, max_steps=20, **OPTIONS).scores)
        assert scores[1]["nats_per_point"] == pytest.approx(scores[0]["nats_per_point"] - 3 * math.log(50), abs=1e-4)
        assert scores[1]["kl"] == pytest.approx(scores[0]["kl"], abs=1e-3)

    def test_two_coordinates(self, tmp_path):
        vae = small_vae(point_dim=2)
        result = fit(vae, some_clouds(point_dim=2), max_steps=3, out=tmp_path, pictures=False, **OPTIONS)
        assert math.isfinite(result.nats_per_point)
        assert pcf.load(tmp_path / "model.pt").point_dim == 2


class TestData:
    def test_held_out_clouds_in_every_form(self, tmp_path):
        held_out = some_clouds(6, seed=6)
        mapped = pcf.data.MappedClouds(pcf.data.save_clouds(held_out, tmp_path / "a.npy"))
        forms = [held_out, held_out.numpy(), list(held_out), mapped]
        scores = {
            fit(small_vae(), some_clouds(), held_out=form, max_steps=2, **OPTIONS).nats_per_point for form in forms
        }
        assert len(scores) == 1

    def test_a_file_trains_as_memory_does(self, tmp_path):
        clouds = some_clouds()
        mapped = pcf.data.MappedClouds(pcf.data.save_clouds(clouds, tmp_path / "a.npy"))
        states = []
        for data in (clouds, mapped):
            vae = small_vae()
            result = fit(vae, data, max_steps=10, noise=0.1, **OPTIONS)
            states.append((vae.state_dict(), result.scores))
        assert same_state(states[0][0], states[1][0])
        assert states[0][1] == states[1][1]

    def test_labels(self, tmp_path):
        vae = small_vae(num_classes=2)
        labels = torch.arange(40) % 2
        clouds = some_clouds() + 20.0 * labels[:, None, None]
        result = fit(vae, (clouds, labels), max_steps=150, ema_decay=0, **{**OPTIONS, "lr": 0.03})
        assert math.isfinite(result.nats_per_point)
        # Before it, their centres are the same.
        centres = vae.sample(400, 50, labels=torch.arange(400) % 2).mean((1, 2))
        assert centres[1::2].mean() > centres[::2].mean() + 1

        class Pairs(Dataset):
            def __len__(self):
                return len(clouds)

            def __getitem__(self, index):
                return clouds[index], int(labels[index])

        scores = [
            fit(small_vae(num_classes=2), data, max_steps=3, **OPTIONS).scores for data in ((clouds, labels), Pairs())
        ]
        assert scores[0] == scores[1]

    def test_wrong_labels(self):
        clouds, labels = some_clouds(), torch.arange(40) % 3
        with pytest.raises(ValueError, match="from 0 to 1"):
            fit(small_vae(num_classes=2), (clouds, labels), max_steps=9, **OPTIONS)
        with pytest.raises(ValueError, match="2 classes, but there are no labels"):
            fit(small_vae(num_classes=2), clouds, max_steps=1, **OPTIONS)
        with pytest.raises(ValueError, match="0 classes, but there are 36 labels"):
            fit(small_vae(), (clouds, labels), max_steps=1, **OPTIONS)

    def test_held_out_clouds_without_labels_are_refused_at_once(self):
        """Not at the first evaluation, after many steps."""
        vae = small_vae(num_classes=2)
        before = [parameter.detach().clone() for parameter in vae.parameters()]
        with pytest.raises((TypeError, ValueError), match="label"):
            fit(vae, (some_clouds(), torch.arange(40) % 2), held_out=some_clouds(6, seed=6), max_steps=3, **OPTIONS)
        assert all(torch.equal(*pair) for pair in zip(before, vae.parameters(), strict=True))

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (torch.zeros(5, 3), r"\(S, N, D\)"),
            (torch.zeros(5, 8, 2), "2 coordinates"),
            (torch.full((5, 8, 3), math.nan), "40 points are NaN"),
            (torch.zeros(5, 8, 3), "units"),
            (torch.randn(5, 8, 3), "leaves 5 to train on and 0"),
        ],
    )
    def test_wrong_data_is_told_before_a_folder_is_made(self, tmp_path, data, words):
        held_out = {"units": 0}.get(words, 0.01 if "leaves" in words else 0.4)
        with pytest.raises(ValueError, match=words):
            fit(small_vae(), data, max_steps=1, held_out=held_out, out=tmp_path / "run", **OPTIONS)
        assert not (tmp_path / "run").exists()

    def test_wrong_held_out_clouds(self):
        with pytest.raises(ValueError, match="held_out: its points have 2 coordinates"):
            fit(small_vae(), some_clouds(), held_out=torch.zeros(5, 8, 2), max_steps=1, **OPTIONS)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"target_points": 0}, "target_points"),
            ({"encoder_points": 0}, "encoder_points"),
            ({"kl_warmup_steps": -1}, "kl_warmup_steps"),
        ],
    )
    def test_wrong_settings(self, options, words):
        with pytest.raises(ValueError, match=words):
            fit(small_vae(), some_clouds(), max_steps=1, **{**OPTIONS, **options})


class TestRepeating:
    def test_a_seed_repeats(self):
        states = []
        for seed in (1, 1, 2):
            vae = small_vae(noise_input=True)
            result = fit(vae, some_clouds(), max_steps=10, noise=0.1, seed=seed, **OPTIONS)
            states.append((vae.state_dict(), result.scores))
        assert same_state(states[0][0], states[1][0])
        assert states[0][1] == states[1][1]
        assert not same_state(states[0][0], states[2][0])

    def test_how_often_it_evaluates_changes_no_bit(self):
        states = []
        for every in (1, 7):
            vae = small_vae(noise_input=True)
            options = {**OPTIONS, "log_every": every, "eval_every": every, "patience": None}
            fit(vae, some_clouds(), max_steps=15, noise=0.1, **options)
            states.append(vae.state_dict())
        assert same_state(*states)

    def test_each_evaluation_of_the_same_weights_is_the_same(self):
        options = {**OPTIONS, "lr": 1e-12}
        result = fit(small_vae(), some_clouds(), max_steps=4, eval_every=1, ema_decay=0, noise=0.1, **options)
        scores = [line["nats_per_point"] for line in result.history]
        assert len(scores) == 4
        assert scores == pytest.approx([scores[0]] * 4, rel=1e-6)

    @pytest.mark.parametrize("stop", [1, 7, 14])
    @pytest.mark.parametrize("act_norm", [False, True])
    def test_a_stopped_run_ends_with_the_same_bits(self, tmp_path, stop, act_norm):
        labels = torch.arange(40) % 2
        decoder = {**DECODER, "act_norm": act_norm}

        def run(out, stop=None):
            vae = small_vae(noise_input=True, num_classes=2, decoder=decoder)
            if stop is not None:
                decode, calls = vae.decode, []

                def stopping(*args, **options):
                    calls.append(1)
                    if len(calls) == stop:
                        raise KeyboardInterrupt
                    return decode(*args, **options)

                vae.decode = stopping
            options = {"noise": 0.1, "kl_warmup_steps": 10, "checkpoint_every": 3, "pictures": False, **OPTIONS}
            return vae, fit(vae, (some_clouds(), labels), max_steps=16, out=out, resume=True, **options)

        vae, whole = run(tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "stopped", stop)
        again, resumed = run(tmp_path / "stopped")
        assert same_state(vae.state_dict(), again.state_dict())
        assert whole.scores == resumed.scores
        files = (tmp_path / name / "model.pt" for name in ("whole", "stopped"))
        assert same_state(*(pcf.load(file).state_dict() for file in files))

    @pytest.mark.parametrize(
        "change", ["clouds", "held_out", "labels", "sizes", "kl_warmup_steps", "target_points", "encoder_points"]
    )
    def test_another_run_is_not_resumed(self, tmp_path, change):
        clouds, labels = ragged_clouds((20, 30, 70)), torch.arange(12) % 2
        held_out = some_clouds(4, seed=6), torch.arange(4) % 2

        def run(clouds=clouds, labels=labels, held_out=held_out, **options):
            vae = small_vae(num_classes=2)
            options = {**OPTIONS, "max_steps": 2, "out": tmp_path, "resume": True, "pictures": False, **options}
            fit(vae, (clouds, labels), held_out=held_out, **options)

        run()
        # The same is.
        run()
        # The same points, one of which is another cloud's.
        moved = [clouds[0][:-1], torch.cat([clouds[0][-1:], clouds[1]]), *clouds[2:]]
        changed = {
            "clouds": {"clouds": [clouds[0] + 0.1, *clouds[1:]]},
            "held_out": {"held_out": (some_clouds(4, seed=7), held_out[1])},
            "labels": {"labels": 1 - labels},
            "sizes": {"clouds": moved},
            "kl_warmup_steps": {"kl_warmup_steps": 5},
            "target_points": {"target_points": 17},
            "encoder_points": {"encoder_points": 17},
        }
        with pytest.raises(ValueError, match="run with other settings"):
            run(**changed[change])


def test_held_out_data_is_scored_alike_on_both_roads():
    """Given points and given clouds both get the noise that is trained with."""
    points, clouds = some_clouds(1, 400)[0], some_clouds(8, 80)
    held_points, held_clouds = some_clouds(1, 300, seed=6)[0], some_clouds(6, 100, seed=6)
    scores = {}
    for noise in (0.0, 3.0):
        torch.manual_seed(0)
        flow, vae = pcf.PointCloudFlow(3, **DECODER), small_vae()
        options = {"max_steps": 1, "noise": noise, "lr": 1e-9, "ema_decay": 0, "device": "cpu"}
        scores["flow", noise] = fit(flow, points, held_out=held_points, **options).nats_per_point
        scores["vae", noise] = fit(vae, clouds, held_out=held_clouds, **options).nats_per_point
        with torch.no_grad():
            clean = flow.log_prob(held_points).mean().item()
        assert (scores["flow", noise] == pytest.approx(clean, abs=1e-4)) == (noise == 0)
    # Noise of six times the width of a cloud costs whichever model some nats.
    for road in ("flow", "vae"):
        assert scores[road, 3.0] < scores[road, 0.0] - 0.3


class TestRunFolder:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        "kind", ["classes", *(pytest.param(kind, marks=pytest.mark.exhaustive) for kind in ("ragged", "plain"))]
    )
    def test_holds_what_it_promises(self, tmp_path, kind):
        clouds = some_clouds(10, 70)
        data = {"classes": (clouds, torch.arange(10) % 2), "ragged": ragged_clouds(repeats=2), "plain": clouds}[kind]
        vae = small_vae(num_classes=2 if kind == "classes" else 0)
        held_out = 0 if kind == "plain" else 0.3
        state = torch.get_rng_state()
        result = fit(vae, data, max_steps=3, held_out=held_out, out=tmp_path / "run", **OPTIONS)
        assert torch.equal(torch.get_rng_state(), state)
        names = {file.name for file in result.out.iterdir()} - {".lock"}
        assert {"config.toml", "metrics.jsonl", "checkpoint.pt", "model.pt"} <= names
        assert {"samples.png", "reconstructions.png", "walk.png", "walk.webp", "walk.html"} <= names
        for name in names:
            assert (result.out / name).stat().st_size > 100
        config = toml.loads((result.out / "config.toml").read_text())
        assert config["module"]["class"] == "PointCloudVAE"
        assert config["module"]["config"]["latent_dim"] == 2
        assert config["data"]["target_points"] == 16
        assert config["data"]["point_dim"] == 3
        again = pcf.load(result.out / "model.pt")
        assert same_state(again.state_dict(), vae.state_dict())
        lines = [json.loads(line) for line in (result.out / "metrics.jsonl").read_text().splitlines()]
        assert lines == result.history

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "kind",
        [
            "empty held out",
            *(pytest.param(kind, marks=pytest.mark.exhaustive) for kind in ("one held out", "plane", "mapped")),
        ],
    )
    def test_pictures_of_unusual_data(self, tmp_path, kind):
        clouds = some_clouds(10, 70, 2 if kind == "plane" else 3)
        held_out, data = 0.3, clouds
        if kind == "empty held out":
            held_out = [torch.zeros(0, 3), clouds[0], clouds[1, :1]]
        elif kind == "one held out":
            held_out = clouds[:1]
        elif kind == "mapped":
            data = pcf.data.MappedClouds(pcf.data.save_clouds(clouds, tmp_path / "a.npy"))
        vae = small_vae(point_dim=clouds.shape[-1])
        fit(vae, data, max_steps=2, held_out=held_out, out=tmp_path / "run", **OPTIONS)
        for name in ("samples.png", "reconstructions.png", "walk.png"):
            assert (tmp_path / "run" / name).stat().st_size > 1000

    def test_no_pictures_where_they_are_not_wanted(self, tmp_path):
        fit(small_vae(), some_clouds(), max_steps=1, out=tmp_path, pictures=False, **OPTIONS)
        assert {file.name for file in tmp_path.iterdir()} == {
            ".lock",
            "config.toml",
            "metrics.jsonl",
            "checkpoint.pt",
            "model.pt",
        }


class TestNothingElseChanges:
    def test_the_callers_store_random_numbers_modes_and_gradients(self):
        vae = small_vae(num_classes=2).eval()
        vae.encoder.train()
        pyro.param("mine", torch.ones(2))
        pyro.module("clouds", nn.Linear(2, 2))
        store = {name: value.detach().clone() for name, value in pyro.get_param_store().items()}
        weight = next(vae.parameters())
        weight.grad = gradient = torch.ones_like(weight)
        clouds = some_clouds()
        kept, state = clouds.clone(), torch.get_rng_state()
        with torch.no_grad():
            fit(vae, (clouds, torch.arange(40) % 2), max_steps=4, noise=0.1, eval_every=2, **OPTIONS)
            assert not torch.is_grad_enabled()
        assert torch.equal(torch.get_rng_state(), state)
        after = dict(pyro.get_param_store().items())
        assert after.keys() == store.keys()
        assert all(torch.equal(after[name], store[name]) for name in store)
        assert (vae.training, vae.encoder.training, vae.decoder.training) == (False, True, False)
        assert weight.grad is gradient
        assert torch.equal(clouds, kept)

    def test_an_error_leaves_the_store(self):
        vae = small_vae()
        pyro.param("mine", torch.ones(2))

        def fail(*args, **options):
            pyro.param("theirs", torch.ones(3))
            raise OSError("no more")

        vae.decode = fail
        with pytest.raises(OSError, match="no more"):
            fit(vae, some_clouds(), max_steps=2, **OPTIONS)
        assert set(pyro.get_param_store().keys()) == {"mine"}

    def test_our_models_send_no_parameters_to_pyro(self, monkeypatch):
        """Registration costs a part of a step, and Adam has the parameters anyway."""
        monkeypatch.setattr(pyro, "module", lambda name, module: pytest.fail(f"{name} was registered"))
        fit(small_vae(), some_clouds(), max_steps=2, **OPTIONS)

    def test_a_fitted_model_is_an_ordinary_module(self):
        vae = small_vae()
        fit(vae, some_clouds(), max_steps=3, **OPTIONS)
        assert vae.sample(2, 5).isfinite().all()
        loss = pyro.infer.Trace_ELBO().differentiable_loss(vae.model, vae.guide, some_clouds(4))
        loss.backward()
        assert all(parameter.grad is not None for parameter in vae.parameters())


class TestObjective:
    def test_the_loss_is_the_bound_over_the_points_it_stands_for(self):
        vae = small_vae()
        clouds = some_clouds()
        vae.normalize(clouds)
        sampling = CloudSampling(target_points=16, encoder_points=16, kl_warmup_steps=10)
        objective = EvidenceLowerBound(vae, clouds, batch_size=8, held_out=0, sampling=sampling)
        batch = objective.batch(3)
        assert (batch.encoder_points.shape, batch.clouds.shape) == ((8, 16, 3), (8, 16, 3))
        assert objective.points_per_step == 8 * 16
        assert not objective.evaluates
        assert objective.evaluate() == {}
        torch.manual_seed(0)
        loss = objective.loss(batch)
        torch.manual_seed(0)
        with torch.no_grad():
            q = vae.encode(batch.encoder_points)
            z = q.sample()
            bound = 80 / 16 * vae.decode(z, 16).log_prob(batch.clouds)
            bound = bound + 0.4 * (vae.latent_prior().log_prob(z) - q.log_prob(z))
        assert loss.item() == pytest.approx(-bound.sum().item() / (8 * 80), rel=1e-5)

    def test_the_mean_loss_of_an_epoch_does_not_depend_on_the_batch_size(self):
        """Of a model without latents to draw: the same points, in batches of 4 and of 10."""
        foreign = GaussianClouds().double()
        clouds = some_clouds(20, 10).double()
        losses = []
        for size in (4, 10, 20):
            objective = EvidenceLowerBound(foreign, clouds, batch_size=size, held_out=0)
            values = [objective.loss(objective.batch(step)).item() for step in range(20 // size)]
            losses.append(sum(values) / len(values))
        expected = -sum(foreign.log_evidence(cloud) for cloud in clouds) / 200
        assert losses == pytest.approx([expected] * 3)


class TestForeignModels:
    """Whoever has `model(clouds, mask, size)` and `guide(clouds, mask, size)`."""

    def test_it_is_trained(self):
        module = GaussianClouds(scale=2.0)
        clouds = some_clouds(200, 30)
        options = {**OPTIONS, "lr": 0.3, "batch_size": 50, "target_points": 30, "encoder_points": 30}
        result = fit(module, clouds, max_steps=300, ema_decay=0, **options)
        assert module.loc.detach().tolist() == pytest.approx(clouds.mean((0, 1)).tolist(), abs=0.2)
        assert module.log_scale.exp().item() == pytest.approx(0.5, rel=0.05)
        assert set(result.scores) == {"nats_per_point", "nats_per_cloud", "log_likelihood", "kl"}

    @pytest.mark.parametrize("num_points", [10, 63, 64, 100])
    @pytest.mark.parametrize("ragged", [False, True])
    def test_its_score_is_the_evidence_of_whole_clouds(self, num_points, ragged):
        """The guide is the exact posterior: no draw, no approximation."""
        module = GaussianClouds(scale=0.7).double()
        held_out = some_clouds(6, num_points, seed=6).double()
        held_out = [cloud[: num_points - 2 * i * ragged] for i, cloud in enumerate(held_out)]
        options = {**OPTIONS, "lr": 1e-12}
        result = fit(module, some_clouds().double(), held_out=held_out, max_steps=1, ema_decay=0, **options)
        evidences = [module.log_evidence(cloud) for cloud in held_out]
        assert result.scores["nats_per_cloud"] == pytest.approx(sum(evidences) / 6, rel=1e-5)
        points = sum(len(cloud) for cloud in held_out)
        assert result.scores["nats_per_point"] == pytest.approx(sum(evidences) / points, rel=1e-5)

    def test_its_score_is_no_mean_of_means(self):
        """Batches of clouds of 2 and of 40 points, one and three of them: each point counts once."""
        module, clouds = GaussianClouds().double(), [cloud.double() for cloud in some_clouds(4, 40, seed=6)]
        clouds[3] = clouds[3][:2]
        held_out = take_clouds(clouds, torch.float64, 3, torch.device("cpu"))
        objective = EvidenceLowerBound(module, clouds, held_out=clouds)
        objective.held_out = evaluation_batches(held_out, 0, 0.0, split=False, at_once=3)
        assert [len(batch.clouds) for batch in objective.held_out] == [1, 3]
        with torch.no_grad():
            scores = objective.evaluate()
        evidences = [module.log_evidence(cloud) for cloud in clouds]
        assert scores["nats_per_point"] == pytest.approx(sum(evidences) / 122, rel=1e-5)
        assert scores["nats_per_cloud"] == pytest.approx(sum(evidences) / 4, rel=1e-5)
        assert scores["log_likelihood"] - scores["kl"] == pytest.approx(scores["nats_per_cloud"])

    @pytest.mark.parametrize("num_points", [10, 100])
    def test_it_is_given_whole_clouds(self, num_points):
        module = GaussianClouds()
        clouds = some_clouds(40, num_points)
        fit(module, clouds, held_out=0, max_steps=2, **{**OPTIONS, "target_points": 1000, "encoder_points": 1000})
        for given, mask, size in module.calls:
            assert given.shape == (8, num_points, 3)
            assert mask is None
            assert size == 40

    def test_its_parameters_in_the_store_do_not_outlive_a_step(self):
        class Registering(GaussianClouds):
            def model(self, clouds, mask, size):
                pyro.module("mine", self)
                super().model(clouds, mask, size)

        module = Registering()
        fit(module, some_clouds(), max_steps=3, **OPTIONS)
        assert not pyro.get_param_store().keys()
        assert module.loc.abs().min() > 0

    def test_a_folder_holds_its_weights(self, tmp_path):
        module = GaussianClouds()
        fit(module, some_clouds(), max_steps=3, out=tmp_path, **OPTIONS)
        state = torch.load(tmp_path / "model.pt", weights_only=True)
        assert same_state(state, module.state_dict())


class TestAutoDecoder:
    @staticmethod
    def make(num_clouds=40, **options):
        torch.manual_seed(11)
        return AutoDecoder(num_clouds, 3, 2, decoder=DECODER, **{"prior": "normal", **options})

    def test_it_learns_an_embedding_for_each_cloud(self):
        model, clouds = self.make(), some_clouds()
        before = model.embedding_loc.detach().clone()
        result = fit(model, clouds, held_out=0, max_steps=150, log_every=10, **{**OPTIONS, "lr": 0.02})
        losses = [line["loss"] for line in result.history]
        assert losses[-1] < losses[0] - 0.2
        assert result.nats_per_point is None
        assert ((model.embedding_loc - before).abs() > 1e-3).any(-1).all()
        # Its own cloud is likelier under an embedding than under that of another cloud.
        with torch.no_grad():
            own = model.decode(model.embedding_loc, 80).log_prob(clouds)
            other = model.decode(model.embedding_loc.roll(1, 0), 80).log_prob(clouds)
        assert (own > other).float().mean() > 0.8

    @pytest.mark.parametrize("held_out", [0.25, "given"])
    def test_held_out_clouds_have_no_embedding(self, held_out):
        """They would be scored under the embeddings of training clouds with the same numbers."""
        held_out = some_clouds(4, seed=6) if held_out == "given" else held_out
        with pytest.raises(ValueError, match="held_out"):
            fit(self.make(), some_clouds(), held_out=held_out, max_steps=2, **OPTIONS)

    @pytest.mark.parametrize("num_clouds", [39, 41, 30])
    def test_a_wrong_number_of_embeddings(self, num_clouds):
        with pytest.raises(ValueError, match="clouds"):
            fit(self.make(num_clouds), some_clouds(), held_out=0, max_steps=6, **OPTIONS)

    def test_a_run_folder_holds_the_embeddings(self, tmp_path):
        model = self.make()
        fit(model, some_clouds(), held_out=0, max_steps=6, out=tmp_path, **OPTIONS)
        again = pcf.load(tmp_path / "model.pt")
        assert same_state(again.state_dict(), model.state_dict())
        assert np.isfinite(again.embedding_loc.detach().numpy()).all()


@pytest.mark.slow
def test_the_camera_of_the_pictures(tmp_path, monkeypatch):
    cameras = []

    def look(*_, up, azim, **__):
        cameras.append((up, azim))

    for name in ("plot_clouds", "animate", "save_html"):
        monkeypatch.setattr(pictures, name, look)
    monkeypatch.setattr(pictures, "save_figure", lambda *_: None)
    for number, camera in enumerate([Pictures("z", azim=30.0), Pictures("x"), True]):
        fit(small_vae(), some_clouds(), max_steps=1, out=tmp_path / f"{number}", pictures=camera, **OPTIONS)
    assert cameras == [("z", 30.0)] * 5 + [("x", 215.0)] * 5 + [("y", 215.0)] * 5


@pytest.mark.exhaustive
def test_a_cloud_stands_where_up_is_up(tmp_path):
    """One that is long along z stands where z is up and lies where y is."""
    clouds = some_clouds() * torch.tensor([1.0, 1.0, 9.0])
    heights = []
    for up in ("y", "z"):
        fit(small_vae(), clouds, max_steps=1, out=tmp_path / up, pictures=Pictures(up), **OPTIONS)
        with Image.open(tmp_path / up / "reconstructions.png") as picture:
            heights.append(picture.height / picture.width)
    assert heights[1] > heights[0]
