"""Finding an object and its outliers: poses of real shapes from clean and from contaminated scans.

    python -m benchmarks.robust MESH_FOLDER                                 # the table of docs/benchmarks.md
    python -m benchmarks.robust MESH_FOLDER --scans 2 --train-steps 100     # a smoke run

Two flows are fitted to each mesh, one to points that are blurred by 0.1 of the half extent of the bounding box, in
which a pose is found from afar, and one to points that are blurred by 0.01, in which it is refined. A scan has 300
held-out points of it, moved by a pose from the prior: rotations with a spread of 0.3 radians about each axis,
translations with a deviation of 0.3 of the half extent of the bounding box, scales of 20%. Of a contaminated scan
another 5% are planted outliers, uniform in a box of 1.5 half extents about the origin. The pose is a maximum of the
posterior: twelve draws of the prior are led uphill in the blurred density, and the best three of them in the sharp one.
An outlier's score is its probability under the robust model, whose background fills the bounding box of the scan and
whose share is a latent.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, init_to_sample, init_to_value
from scipy.stats import mannwhitneyu
from torch import Tensor
from torch.distributions import Distribution

import pyro_pcflow as pcf
from benchmarks.common.constants import NOISE_PER_HALF_EXTENT
from benchmarks.common.meshes import Shape, load_shape, mesh_paths

NUM_POINTS = 300
NUM_OUTLIERS = round(NUM_POINTS * 0.05 / 0.95)
BLURS = (0.1, NOISE_PER_HALF_EXTENT)
# For each blur: how many starts, how many of them are kept, and the learning rate.
STAGES = ((12, 3, 0.03), (3, 1, 0.005))


@dataclass(frozen=True)
class Errors:
    """How far an estimated pose is from the true one.

    Attributes:
        points: mean distance between the object's points under both poses, in half extents (Hinterstoisser et al.,
            Model based training, detection and pose estimation of texture-less 3D objects, ACCV 2012).
        degrees: angle of the rotation between them.
        translation: in half extents.
        scale: of its logarithm.
    """

    points: float
    degrees: float
    translation: float
    scale: float


@dataclass(frozen=True)
class Trial:
    """One scan, estimated three times."""

    clean: Errors
    robust: Errors
    plain: Errors
    auroc: float


def pose_prior(dtype: torch.dtype = torch.float32) -> pcf.transforms.Similarity:
    """The prior over poses, within a model."""
    zero = torch.zeros((), dtype=dtype)
    return pcf.infer.sample_pose(
        spread=0.3,
        translation=dist.Normal(zero.expand(3), 0.3).to_event(1),
        scale=dist.LogNormal(zero, 0.2),
    )


def find_pose(
    densities: Sequence[Distribution], scan: Tensor, *, robust: bool, steps: int
) -> tuple[pcf.transforms.Similarity, Tensor]:
    """The best of several posterior maxima, and the probability of each point to be background.

    Args:
        densities: of the same object, from blurred to sharp.
        scan: shape `(N, 3)`.
        robust: whether the model has a background.
        steps: steps of the optimiser for each density.
    """
    low, high = scan.amin(0), scan.amax(0)

    def model(density: Distribution, starts: int) -> tuple[pcf.transforms.Similarity, Distribution]:
        with pyro.plate("starts", starts):
            pose = pose_prior()
            point: Distribution = dist.TransformedDistribution(density, [pose])
            if robust:
                share = pyro.sample("share", dist.Beta(torch.tensor(1.0), 10.0))
                point = pcf.distributions.with_background(point, share, low, high)
            pyro.sample("scan", pcf.PointCloud(point, num_points=len(scan)), obs=scan)
        return pose, point

    init: Callable = init_to_sample
    for density, (starts, kept, lr) in zip(densities, STAGES, strict=True):
        pyro.clear_param_store()
        guide = AutoDelta(model, init_loc_fn=init)
        schedule = pyro.optim.ExponentialLR(
            {"optimizer": torch.optim.Adam, "optim_args": {"lr": lr}, "gamma": 0.05 ** (1 / steps)}
        )
        svi = SVI(model, guide, schedule, Trace_ELBO())
        for _ in range(steps):
            svi.step(density, starts)
            schedule.step()
        found = {name: value.detach() for name, value in guide.median().items()}
        with torch.no_grad():
            trace = poutine.trace(poutine.condition(model, data=found)).get_trace(density, starts)
        trace.compute_log_prob()
        log_joint = sum(trace.nodes[name]["log_prob"] for name in [*found, "scan"])
        best = log_joint.topk(kept).indices
        init = init_to_value(values={name: value[best] for name, value in found.items()})
    pose, point = trace.nodes["_RETURN"]["value"]
    outlier = torch.zeros(len(scan))
    if robust:
        outlier = point.responsibilities(scan.unsqueeze(1))[:, best[0], 1]
    return pcf.transforms.Similarity(pose.rotation[best[0]], pose.translation[best[0]], pose.scale[best[0]]), outlier


def errors(found: pcf.transforms.Similarity, truth: pcf.transforms.Similarity, points: Tensor) -> Errors:
    """Compare two poses of points of shape `(N, 3)`."""
    turn = found.rotation.mT @ truth.rotation
    cosine = ((turn.diagonal().sum() - 1) / 2).clamp(-1, 1)
    return Errors(
        (found(points) - truth(points)).norm(dim=-1).mean().item(),
        math.degrees(cosine.acos().item()),
        (found.translation - truth.translation).norm().item(),
        abs((found.scale / truth.scale).log().item()),
    )


def run_trial(densities: Sequence[Distribution], points: Tensor, seed: int, steps: int) -> Trial:
    """Estimate the pose of one scan, clean, contaminated with a robust model, and contaminated without one."""
    pyro.set_rng_seed(seed)
    truth = pose_prior()
    clean = truth(points[torch.randperm(len(points))[:NUM_POINTS]])
    outliers = 3 * torch.rand(NUM_OUTLIERS, 3) - 1.5
    contaminated = torch.cat([clean, outliers])
    found_clean, _ = find_pose(densities, clean, robust=False, steps=steps)
    found_robust, score = find_pose(densities, contaminated, robust=True, steps=steps)
    found_plain, _ = find_pose(densities, contaminated, robust=False, steps=steps)
    auroc = mannwhitneyu(score[NUM_POINTS:], score[:NUM_POINTS]).statistic / (NUM_POINTS * NUM_OUTLIERS)
    clean_errors, robust_errors, plain_errors = (
        errors(found, truth, points) for found in (found_clean, found_robust, found_plain)
    )
    return Trial(clean_errors, robust_errors, plain_errors, float(auroc))


def run_shape(shape: Shape, scans: int, train_steps: int, steps: int) -> list[Trial]:
    """Fit a flow to a shape and find it in scans."""
    quiet = pcf.training.Logging(progress=False)
    densities = []
    for blur in BLURS:
        torch.manual_seed(0)
        flow = pcf.PointCloudFlow(3, num_couplings=12, hidden_dims=(64, 64))
        pcf.fit(flow, shape.train, max_steps=train_steps, lr=1e-2, noise=blur, held_out=0, logging=quiet)
        densities.append(flow.requires_grad_(False).condition())
    trials = []
    for seed in range(scans):
        trials.append(run_trial(densities, shape.test, seed, steps))
        print(shape.name, seed, trials[-1], file=sys.stderr, flush=True)
    return trials


def row(name: str, trials: list[Trial]) -> str:
    """One line of the table: medians over scans, and the least AUROC."""

    def median(model: str, error: str) -> float:
        return statistics.median(getattr(getattr(trial, model), error) for trial in trials)

    cells = [name]
    for error, unit in (("points", ""), ("degrees", "°"), ("translation", ""), ("scale", "")):
        clean, robust, plain = (median(model, error) for model in ("clean", "robust", "plain"))
        cells.append(f"{clean:.3g}{unit}, {robust:.3g}{unit} ({robust / clean:.2f}), {plain:.3g}{unit}")
    scores = [trial.auroc for trial in trials]
    return f"| {' | '.join(cells)} | {statistics.mean(scores):.3f} (least {min(scores):.3f}) |"


def main() -> None:
    """Run every mesh and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meshes", type=Path, help="a mesh, or a folder of .obj files")
    parser.add_argument("--scans", type=int, default=8, help="scans of each mesh")
    parser.add_argument("--train-steps", type=int, default=1000, help="training steps of each flow")
    parser.add_argument("--steps", type=int, default=120, help="steps of each estimate, with either flow")
    arguments = parser.parse_args()
    paths = mesh_paths(arguments.meshes, parser)
    print("| mesh | points: clean, robust (ratio), plain | rotation | translation | scale | AUROC of outliers |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    every = []
    for path in paths:
        trials = run_shape(load_shape(path), arguments.scans, arguments.train_steps, arguments.steps)
        every += trials
        print(row(path.stem, trials), flush=True)
    print(row("all", every))


if __name__ == "__main__":
    main()
