"""Simulation-based calibration of the posteriors over contexts and over poses.

    python -m benchmarks.calibration --out calibration.png      # the figure of docs/benchmarks.md
    python -m benchmarks.calibration --clouds 50 --draws 50     # a smoke run, too small to say much

Latents are drawn from the prior and a cloud from the model given them; NUTS then samples the posterior given the cloud.
If and only if the inference is right, the rank of the true latent among the posterior draws is uniform, and a 90%
interval covers it in 90% of the clouds (Talts, Betancourt, Simpson, Vehtari and Gelman, Validating Bayesian inference
algorithms with simulation-based calibration, 2018). All clouds are sampled at once, in one plate.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide import init_to_median
from pyro.ops.stats import effective_sample_size
from scipy.stats import binom, chisquare
from torch import Tensor

import pyro_pcflow as pcf

NUM_DRAWS = 99  # so that there are 100 ranks
NUM_BINS = 10
NUM_POINTS = 50

Model = Callable[..., dict[str, Tensor]]


@dataclass(frozen=True)
class Calibration:
    """What became of one quantity.

    Attributes:
        ranks: rank of the truth among the draws, 0 to 99, one for each cloud.
        effective: effective number of the draws before thinning, mean over clouds.
    """

    name: str
    ranks: Tensor
    effective: float

    @property
    def counts(self) -> list[int]:
        """Clouds in each bin of ranks."""
        return torch.bincount(self.ranks * NUM_BINS // (NUM_DRAWS + 1), minlength=NUM_BINS).tolist()

    @property
    def p_value(self) -> float:
        """Of Pearson's chi-square test that the ranks are uniform."""
        return float(chisquare(self.counts).pvalue)

    @property
    def coverage(self) -> float:
        """Share of clouds whose truth lies in the central 90% interval of the draws."""
        return float(((self.ranks >= 5) & (self.ranks < 95)).double().mean())


def make_flow(context_dim: int) -> pcf.PointCloudFlow:
    """A small flow with weights that make it far from normal."""
    torch.manual_seed(0)
    flow = pcf.PointCloudFlow(3, context_dim, num_couplings=4, hidden_dims=(16,), activation="tanh", num_frequencies=0)
    return pcf.testing.randomize_parameters(flow, 0.4).double().requires_grad_(False)


def context_model(num_clouds: int, num_points: int = NUM_POINTS) -> Model:
    """A context of two numbers for each cloud."""
    flow = make_flow(context_dim=2)

    def model(clouds: Tensor | None = None) -> dict[str, Tensor]:
        with pyro.plate("clouds", num_clouds):
            context = pyro.sample("context", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            clouds = pyro.sample("x", flow.cloud(context, num_points=num_points), obs=clouds)
        return {"x": clouds, "context 1": context[..., 0], "context 2": context[..., 1]}

    return model


def pose_model(num_clouds: int, num_points: int = NUM_POINTS) -> Model:
    """A rotation, a translation and a scale of one object for each cloud."""
    density = make_flow(context_dim=0).condition()
    around = torch.tensor([1.0, 0.0, 0.0, 0.0]).double()
    zero = torch.zeros(()).double()

    def model(clouds: Tensor | None = None) -> dict[str, Tensor]:
        with pyro.plate("clouds", num_clouds):
            pose = pcf.infer.sample_pose(
                around=around,
                spread=0.2,
                translation=dist.Normal(zero.expand(3), 0.5).to_event(1),
                scale=dist.LogNormal(zero, 0.2),
            )
            posed = dist.TransformedDistribution(density, [pose])
            clouds = pyro.sample("x", pcf.PointCloud(posed, num_points=num_points), obs=clouds)
        turned = pose.rotation
        return {
            "x": clouds,
            "rotation about x": turned[..., 2, 1] - turned[..., 1, 2],
            "rotation about y": turned[..., 0, 2] - turned[..., 2, 0],
            "rotation about z": turned[..., 1, 0] - turned[..., 0, 1],
            **{f"translation {axis}": pose.translation[..., i] for i, axis in enumerate("xyz")},
            "scale": pose.scale,
        }

    return model


STUDIES: dict[str, Callable[[int], Model]] = {"context": context_model, "pose": pose_model}


def calibrate(
    make_model: Callable[[int], Model], num_clouds: int, *, draws: int, warmup: int, seed: int, max_tree_depth: int = 8
) -> list[Calibration]:
    """Simulate clouds, infer their latents, and rank the truth.

    Args:
        make_model: from a number of clouds to a model, which returns the clouds under `x` and, under any other name,
            the quantities to rank, of shape `(num_clouds,)`.
        num_clouds: clouds to simulate.
        draws: draws of the chain, thinned to 99.
        warmup: steps that adapt the chain.
        seed: of truth, clouds and chain.
        max_tree_depth: see `NUTS`.
    """
    pyro.set_rng_seed(seed)
    model = make_model(num_clouds)
    truth = model()
    clouds = truth.pop("x")
    chain = MCMC(
        NUTS(
            model,
            init_strategy=init_to_median,
            max_tree_depth=max_tree_depth,
            jit_compile=True,
            ignore_jit_warnings=True,
        ),
        num_samples=draws,
        warmup_steps=warmup,
        disable_progbar=True,
    )
    chain.run(clouds)
    samples = chain.get_samples()
    rows = [
        poutine.condition(model, data={name: values[index] for name, values in samples.items()})(clouds)
        for index in range(draws)
    ]
    kept = torch.linspace(0, draws - 1, NUM_DRAWS).round().long()
    results = []
    for name, true_value in truth.items():
        values = torch.stack([row[name] for row in rows])
        effective = effective_sample_size(values.T.unsqueeze(-1), chain_dim=-1, sample_dim=1).mean()
        results.append(Calibration(name, (values[kept] < true_value).sum(0), effective.item()))
    return results


def calibrate_by_grid(num_clouds: int, seed: int) -> Calibration:
    """Rank the true scale of the pose study given the rest of the pose, by integrals over a grid and no sampler.

    The clouds are those of `calibrate(pose_model, num_clouds, seed=seed, ...)`, so that a rank that is odd there can be
    told from odd clouds.
    """
    pyro.set_rng_seed(seed)
    model = pose_model(num_clouds)
    trace = poutine.trace(model).get_trace()
    clouds = trace.nodes["x"]["value"]
    truth = {name: trace.nodes[name]["value"] for name in trace.stochastic_nodes if name != "x"}
    log_scales = torch.linspace(-1.2, 1.2, 241).double()
    log_joint = []
    for log_scale in log_scales:
        data = {**truth, "pose_scale": log_scale.exp().expand(num_clouds)}
        other = poutine.trace(poutine.condition(model, data=data)).get_trace(clouds)
        other.compute_log_prob()
        log_joint.append(other.nodes["x"]["log_prob"] + dist.Normal(0.0, 0.2).log_prob(log_scale))
    weights = torch.stack(log_joint).softmax(0)
    below = (log_scales.unsqueeze(-1) < truth["pose_scale"].log()) * weights
    ranks = (below.sum(0) * (NUM_DRAWS + 1)).long().clamp(max=NUM_DRAWS)
    return Calibration("scale given the rest, by a grid", ranks, float("nan"))


def draw(results: list[Calibration], path: Path) -> None:
    """Histograms of ranks, with the band that holds 98% of the bins of a uniform distribution."""
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    columns = 3
    rows = -(-len(results) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(9, 2.1 * rows), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(results) :]:
        axis.axis("off")
    for axis, result in zip(axes.flat, results, strict=False):
        num_clouds = len(result.ranks)
        low, high = binom.ppf([0.01, 0.99], num_clouds, 1 / NUM_BINS)
        axis.axhspan(low, high, color="0.85", zorder=0)
        axis.axhline(num_clouds / NUM_BINS, color="0.5", linewidth=1)
        axis.bar([10 * b + 5 for b in range(NUM_BINS)], result.counts, width=9, color="#4477aa")
        axis.set_title(f"{result.name}: p = {result.p_value:.2f}, cover {result.coverage:.1%}", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("rank of the truth among 99 draws", fontsize=8)
    for axis in axes[:, 0]:
        axis.set_ylabel("clouds", fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Run both studies, print their table and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clouds", type=int, default=400, help="simulated clouds in each study")
    parser.add_argument("--draws", type=int, default=500, help="draws of the chain")
    parser.add_argument("--warmup", type=int, default=300, help="steps that adapt the chain")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the figure here")
    arguments = parser.parse_args()
    results = []
    print("| quantity | chi-square p | 90% interval covers | effective draws |\n| --- | --- | --- | --- |", flush=True)
    for make_model in STUDIES.values():
        start = time.perf_counter()
        study = calibrate(
            make_model, arguments.clouds, draws=arguments.draws, warmup=arguments.warmup, seed=arguments.seed
        )
        for result in study:
            print(
                f"| {result.name} | {result.p_value:.4f} | {result.coverage:.1%} | {result.effective:.0f} |", flush=True
            )
        results += study
        print(f"{time.perf_counter() - start:.0f} seconds", flush=True)
    exact = calibrate_by_grid(arguments.clouds, arguments.seed)
    print(f"| {exact.name} | {exact.p_value:.4f} | {exact.coverage:.1%} | |", flush=True)
    if arguments.out:
        draw(results, arguments.out)


if __name__ == "__main__":
    main()
