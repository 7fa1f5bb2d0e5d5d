"""Everything stays on the device of its input and has there the numbers of the CPU; without a GPU, see the helper."""

from __future__ import annotations

import importlib

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import Adam
from torch.utils._pytree import tree_leaves

import pyro_pcflow as pcf
from helpers.flat_fit import fit
from helpers.pretended_device import DEVICE, pretended_device
from pyro_pcflow import infer, metrics, models, training
from pyro_pcflow.distributions import NoisyPoint, SoftHalfSpace, one_sided, with_background
from pyro_pcflow.metrics.nearest_neighbours import CHAMFER_CONVENTIONS

UnfusedAdamW = torch.optim.AdamW


def draw(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def same_on_both(compute):
    """Assert that the tensors of `compute(device)` lie on the device, and are those of the CPU."""
    outcomes = []
    for device in (torch.device("cpu"), DEVICE):
        pyro.clear_param_store()
        torch.manual_seed(0)
        with pretended_device():
            leaves = tree_leaves(compute(device))
            assert {leaf.device for leaf in leaves if isinstance(leaf, torch.Tensor)} <= {device}
            outcomes.append([leaf.detach().cpu() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves])
    assert outcomes[0]
    torch.testing.assert_close(outcomes[1], outcomes[0], rtol=1e-8, atol=1e-10)


def with_gradient(value, *inputs):
    return value, *torch.autograd.grad(value.sum(), inputs)


def test_the_pretended_device_refuses_what_a_gpu_refuses():
    with pretended_device() as device:
        x = torch.ones(4, 3, device=device)
        with pytest.raises(RuntimeError, match="same device"):
            x + torch.zeros(3)
        with pytest.raises(RuntimeError, match="numpy"):
            x.numpy()
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(3, generator=torch.Generator(), device=device)
        with pytest.raises(RuntimeError, match="generator"):
            x.normal_(generator=torch.Generator())
        assert torch.add(x, 1, out=x) is x
        assert (x + torch.tensor(1.0)).tolist() == [[3.0] * 3] * 4
        assert x.cpu().numpy().sum() == 24
        assert (x.cpu() + torch.zeros(3)).device.type == "cpu"


DISTANCES = {
    **{f"chamfer, {name}": (metrics.chamfer, name) for name in CHAMFER_CONVENTIONS},
    **{f"approximate EMD of {name}": (metrics.approximate_emd, name) for name in ("pointflow", "pvd", "lion")},
    "exact EMD": (metrics.emd,),
    "Sinkhorn": (metrics.sinkhorn, 0.1, 20),
    "F-score": (metrics.f_score, 0.5),
    "Hausdorff": (metrics.hausdorff,),
}


@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("name", DISTANCES)
def test_distances(name, masked):
    distance, *options = DISTANCES[name]

    def compute(device):
        x, y = (draw(5, 9, 3, seed=seed).to(device).requires_grad_() for seed in (1, 2))
        mask = (torch.arange(9) < torch.tensor([9, 1, 4, 8, 9]).unsqueeze(-1)).to(device)
        # A mask may lie on the CPU.
        masks = {"x_mask": mask, "y_mask": mask.cpu()} if masked else {}
        value = distance(x, y, *options, **masks)
        return value if isinstance(value, tuple) else with_gradient(value, x, y)

    same_on_both(compute)


@pytest.mark.slow
@pytest.mark.parametrize("others", ["here", "on the CPU"])
@pytest.mark.parametrize("name", ["chamfer", "emd", "sinkhorn", "approximate_emd"])
def test_reports(name, others):
    def compute(device):
        samples, references, train = (draw(7, 20, 3, seed=seed).to(device) for seed in (1, 2, 3))
        if others == "on the CPU":
            samples, train = samples.cpu(), train.cpu()
        samples[3, 4, 1] = torch.nan
        options = {"sinkhorn": {"epsilon": 0.1, "iterations": 10}}.get(name, {})
        report = metrics.evaluate(
            samples,
            references,
            train=train,
            distances={"d": (name, options)},
            num_clouds=6,
            num_points=15,
            permutations=50,
        )
        return dict(report), report.failed, report.null, report.train

    same_on_both(compute)


def test_a_function_of_the_user_runs_on_the_device_of_the_clouds():
    def between_means(x, y, *, x_mask, y_mask):
        assert {x.device.type, y.device.type, x_mask.device.type, y_mask.device.type} == {seen[-1]}
        return torch.linalg.vector_norm(x.mean(-2) - y.mean(-2), dim=-1)

    seen = []

    def compute(device):
        seen.append(torch.device(device).type)
        samples, references = (draw(5, 9, 3, seed=seed).to(device) for seed in (1, 2))
        samples[3, 4, 1] = torch.nan
        distance = metrics.Distance(between_means, symmetric=True)
        between = metrics.pairwise(samples, references, distance).nan_to_num(-1.0)
        return between, metrics.pairwise(references, distance=distance)

    same_on_both(compute)


def test_set_metrics_and_likelihoods():
    def compute(device):
        a, b = (draw(6, 15, 3, seed=seed).to(device) for seed in (1, 2))
        rows = metrics.pairwise(a), metrics.pairwise(b), metrics.pairwise(a, b)
        flow = pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[8]).double().to(device)
        flow.normalize(a)
        vae = small_preset("default", device)
        return (
            rows,
            metrics.one_nearest_neighbour(*rows),
            metrics.coverage(rows[2]),
            metrics.minimum_matching_distance(rows[2]),
            metrics.spread(rows[0], rows[1]),
            metrics.jensen_shannon(a, b),
            metrics.gaussian_complexity(a).mean(),
            metrics.log_likelihood(flow, a).nats_per_point,
            metrics.importance_weighted_bound(vae, a, num_particles=3).nats_per_point,
            metrics.outlier_auroc(flow.log_prob(a), a[..., 0] > 0),
        )

    same_on_both(compute)


FLOWS = {
    "default": {},
    "conditional base": {"base": "conditional"},
    "mixture base": {"base": "mixture", "num_components": 5},
    "additive": {"coupling": "additive"},
    "splines": {"coupling": "spline"},
    "cubic": {"coupling": "cubic"},
    "normed and mixed": {"lu_linear": True, "act_norm": True},
}


@pytest.mark.parametrize("options", FLOWS.values(), ids=FLOWS)
@pytest.mark.parametrize("kind", [pcf.PointCloudFlow, pcf.MixtureOfFlows])
def test_flows(kind, options):
    def compute(device):
        count = {"num_flows": 2} if kind is pcf.MixtureOfFlows else {}
        flow = kind(point_dim=3, context_dim=4, num_couplings=3, hidden_dims=[8], **count, **options).double()
        pcf.testing.randomize_parameters(flow, 0.3).to(device)
        flow.normalize(3 * draw(50, 3).to(device))
        context, points = draw(5, 4).to(device).requires_grad_(), draw(5, 7, 3).to(device)
        mask = (torch.arange(7) < torch.tensor([0, 1, 7, 3, 5]).unsqueeze(-1)).to(device)
        scores = flow.cloud(context, mask=mask).log_prob(points)
        sampled = flow.cloud(context, num_points=6).sample()
        return (
            with_gradient(scores, context, *flow.parameters()),
            sampled,
            flow.condition(context).sample((0,)),
            flow.cloud(context, num_points=6).log_prob(sampled),
        )

    same_on_both(compute)


def test_sensors():
    def compute(device):
        flow = pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[8]).double().to(device)
        side = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64, device=device)
        points = draw(10, 3).to(device)
        point = flow.condition()
        kinds = [
            NoisyPoint(point, 0.1),
            one_sided(point, side, num_samples=64),
            with_background(point, 0.2, -9 * side.new_ones(3), 9 * side.new_ones(3)),
        ]
        return [(kind.log_prob(points), kind.sample((5,))) for kind in kinds], SoftHalfSpace(side)(points)

    same_on_both(compute)


DECODERS = {
    "default": {"num_couplings": 2, "hidden_dims": (8, 8)},
    "nice": {"num_couplings": 2},
    "realnvp": {"num_couplings": 2, "hidden_dims": (8, 8)},
    "cif": {"num_couplings": 2, "hidden_dims": (8,) + (16,) * 9, "context_dims": (8,) * 5},
    "dpf": {"num_couplings": 2, "hidden_dims": (8, 8)},
    "softflow": {"num_couplings": 2},
    "mixture": {"num_couplings": 2, "hidden_dims": (8, 8)},
}
PRIOR = {"num_couplings": 2, "hidden_dims": (8,)}
SMALL = {"decoder": {"num_couplings": 2}, "prior_options": PRIOR}


def small_preset(name, device):
    model = models.preset(name, latent_dim=6, decoder=DECODERS[name], prior_options=PRIOR)
    return pcf.testing.randomize_parameters(model, 0.1).double().to(device)


@pytest.mark.parametrize("name", DECODERS)
def test_models(name):
    def compute(device):
        vae = small_preset(name, device)
        clouds = 2 * draw(4, 9, 3).to(device)
        vae.normalize(clouds)
        mask = (torch.arange(9) < torch.tensor([1, 5, 9, 2]).unsqueeze(-1)).to(device)
        loss = Trace_ELBO().differentiable_loss(vae.model, vae.guide, clouds, mask)
        gradients = torch.autograd.grad(loss, [*vae.parameters()], allow_unused=True)
        return (
            [gradient for gradient in gradients if gradient is not None],
            vae.log_prob(clouds, mask, num_particles=2),
            vae.sample(2, 5),
            vae.reconstruct(clouds, 6),
            vae.interpolate(clouds[0], clouds[1], 3, 5),
        )

    same_on_both(compute)


def test_classes_and_parts_of_clouds(tmp_path):
    path = tmp_path / "model.pt"
    pcf.save(pcf.PointCloudVAE(3, 4, num_classes=3, **SMALL).double(), path)

    def compute(device):
        vae = pcf.load(path, device=device)
        clouds, labels = draw(4, 9, 3).to(device), torch.tensor([0, 2, 1, 1], device=device)
        mask = (torch.arange(9) < torch.tensor([1, 5, 9, 0]).unsqueeze(-1)).to(device)
        sizes = torch.tensor([3, 50, 9, 0])  # of the clouds that these are parts of
        elbo = Trace_ELBO().loss(vae.model, vae.guide, clouds, mask, labels=labels, num_points=sizes)
        return elbo, vae.sample(4, 5, labels=labels), vae.interpolate(clouds[0], clouds[1], 3, 5, labels=labels[0])

    same_on_both(compute)


def test_auto_decoder():
    def compute(device):
        decoder = models.AutoDecoder(4, latent_dim=3, **SMALL).double().to(device)
        clouds = draw(4, 9, 3).to(device)
        decoder.normalize(clouds)
        index = torch.arange(4, device=device)
        loss = Trace_ELBO().differentiable_loss(decoder.model, decoder.guide, clouds, index=index)
        whole = Trace_ELBO().differentiable_loss(decoder.model, decoder.guide, clouds)
        return loss, whole, decoder.encode(clouds, num_steps=3).mean

    same_on_both(compute)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("svi", {}),
        ("nuts", {"warmup_steps": 3}),
        pytest.param("hmc", {"warmup_steps": 3, "num_chains": 2}, marks=pytest.mark.exhaustive),
    ],
)
def test_completion(method, options):
    def compute(device):
        flow = pcf.PointCloudFlow(3, 2, num_couplings=2, hidden_dims=[8]).double()
        pcf.testing.randomize_parameters(flow, 0.3).to(device)
        result = infer.complete(flow, draw(6, 3).to(device), 9, method=method, num_steps=5, num_samples=3, **options)
        return result.clouds, result.latents, result.observed

    same_on_both(compute)


def test_pose_by_svi_and_nuts():
    def compute(device):
        flow = pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[8]).double()
        pcf.testing.randomize_parameters(flow, 0.3).to(device)
        for parameter in flow.parameters():
            parameter.requires_grad_(False)
        zeros = torch.zeros(3, dtype=torch.float64, device=device)

        def model(scan):
            pose = infer.sample_pose(
                around=zeros.new_tensor([1.0, 0.0, 0.0, 0.0]),
                spread=0.3,
                translation=dist.Normal(zeros, 1.0).to_event(1),
                scale=dist.LogNormal(zeros[0], 0.1),
            )
            point = dist.TransformedDistribution(flow.condition(), [pose])
            pyro.sample("scan", pcf.PointCloud(point, num_points=len(scan)), obs=scan)

        scan = draw(8, 3).to(device)
        guide = AutoNormal(model)
        svi = SVI(model, guide, Adam({"lr": 0.01}), Trace_ELBO())
        losses = [svi.step(scan) for _ in range(3)]
        drawn = Predictive(model, guide=guide, num_samples=2)(scan)
        chain = MCMC(NUTS(model), num_samples=3, warmup_steps=3, disable_progbar=True)
        chain.run(scan)
        return losses, drawn, chain.get_samples()

    same_on_both(compute)


def test_weights_and_sizes():
    def compute(device):
        weights = infer.BayesianWeights(pcf.transforms.affine_point_coupling(3, hidden_dims=[4]).double().to(device))
        noise = dist.Normal(torch.zeros(3, dtype=torch.float64, device=device), 1.0).to_event(1)
        rate = torch.tensor([3.0, 9.0], dtype=torch.float64, device=device)
        with pyro.plate("clouds", 2):
            cloud, mask = infer.sample_point_process("x", dist.Poisson(rate), noise, max_points=30)
            infer.sample_point_process("y", dist.Poisson(rate), noise, obs=cloud)
        return dist.TransformedDistribution(noise, [weights()]).log_prob(draw(5, 3).to(device)), cloud, mask

    same_on_both(compute)


def test_pictures_and_files_take_clouds_of_any_device(tmp_path):
    with pretended_device() as device:
        clouds = draw(2, 30, 3).to(device)
        flow = pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[8]).to(device)
        figure = pcf.plotting.plot_clouds(clouds, colors=clouds[..., 0])
        pcf.plotting.save_figure(figure, tmp_path / "clouds.png")
        assert "<iframe" in pcf.plotting.view_clouds(clouds)._repr_html_()
        assert "<iframe" in flow._repr_html_()
        assert "<iframe" in pcf.PointCloudFlow(3, 2, num_couplings=2, hidden_dims=[8]).to(device)._repr_html_()
        pcf.plotting.animate(flow.trajectory(20), tmp_path / "walk.gif", size=80, hold=0.0)
        pcf.data.save_clouds(clouds, tmp_path / "clouds.npz")
    assert torch.equal(torch.from_numpy(np.load(tmp_path / "clouds.npz")["points"]).double(), draw(2, 30, 3))


SIZES = [40, 1, 7, 30, 22, 9, 40, 3, 15, 28, 5, 33]
DATA = {
    "points": lambda folder: draw(200, 3),
    "clouds": lambda folder: draw(12, 40, 3),
    "clouds of many sizes with labels": lambda folder: (
        [cloud[:size] for cloud, size in zip(draw(12, 40, 3), SIZES, strict=True)],
        torch.arange(12) % 2,
    ),
    "mapped clouds": lambda folder: pcf.data.MappedClouds(pcf.data.save_clouds(draw(12, 40, 3), folder / "clouds.npy")),
    "embeddings": lambda folder: draw(12, 40, 3),
}


@pytest.mark.parametrize("name", DATA)
def test_fit(name, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.import_module("pyro_pcflow.training.fit"), "as_device", torch.device)
    # The fused kernel knows its devices by name.
    monkeypatch.setattr(torch.optim, "AdamW", lambda *args, fused, **options: UnfusedAdamW(*args, **options))
    data = DATA[name](tmp_path)
    options = {"max_steps": 6, "eval_every": 3, "noise": 0.1, "progress": False}
    if name != "points":
        options |= {"batch_size": 4, "target_points": 8, "encoder_points": 16}
    if name == "embeddings":
        options |= {"held_out": 0}

    def make():
        if name == "points":
            return pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[8])
        if name == "embeddings":
            return models.AutoDecoder(12, 3, 4, **SMALL)
        return pcf.PointCloudVAE(3, 4, num_classes=2 * isinstance(data, tuple), noise_input=True, **SMALL)

    def compute(device):
        module = make().double()
        result = fit(module, data, device=str(device), **options)
        assert {parameter.device.type for parameter in module.parameters()} == {"cpu"}
        return (
            result.nats_per_point,
            result.history[-1]["loss"],
            [parameter.to(device) for parameter in module.parameters()],
        )

    same_on_both(compute)


@pytest.mark.slow
def test_pictures_of_a_run(tmp_path):
    clouds = training.inputs.as_clouds(DATA["clouds of many sizes with labels"](None), torch.float64, 3, DEVICE)
    with pretended_device() as device:
        flow = pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[8]).double().to(device)
        training.pictures.write_pictures(flow, draw(50, 3).to(device), tmp_path / "flow", num_points=20)
        vae = pcf.PointCloudVAE(3, 4, num_classes=2, **SMALL).double().to(device)
        training.pictures.write_cloud_pictures(vae, clouds.to(device), tmp_path / "vae", num_points=20)
    assert len([*tmp_path.glob("*/*")]) == 9
