"""One run of one model family under one protocol: trained, sampled and scored."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor

import pyro_pcflow as pcf
from benchmarks.model_families import FAMILIES, Size
from benchmarks.model_records import TRAIN_ROW, ModelRun, Protocol
from benchmarks.scoring import score
from benchmarks.vae import NOISE, Category, count_parameters
from pyro_pcflow.metrics.matrices import pairwise
from pyro_pcflow.ops.hashing import sha256_of
from pyro_pcflow.ops.random import seeded, seeded_generator
from pyro_pcflow.training.run_folder import versions

# Points that are scored at once.
AT_ONCE = 2**17
# Samples this much alike, or that find so few references, are one shape, or none.
LEAST_SPREAD, LEAST_COVERAGE = 0.1, 0.05


def make_protocol(category: Category, **settings: Any) -> Protocol:
    """The protocol of a category, in standard units, with the other settings given."""
    splits = (category.train, category.validation, category.test)
    return Protocol(
        data=category.name,
        sha256=sha256_of(torch.cat([split.flatten() for split in splits])),
        noise=NOISE,
        units="standard deviation of the train split",
        **settings,
    )


def run_model(name: str, category: Category, seed: int, lr: float | None, protocol: Protocol) -> ModelRun:
    """Build, train, sample and score one model."""
    family = FAMILIES[name]
    device = torch.device(protocol.device)
    clouds = category.train.to(device)
    lr = family.lr if lr is None else lr
    torch.manual_seed(seed)
    model = family.make(Size(len(clouds), protocol.num_points, clouds.shape[-1])).to(device)
    failures = []
    options: dict[str, Any] = {"max_seconds": protocol.seconds, "max_steps": protocol.max_steps, "lr": lr, "seed": seed}
    start = time.perf_counter()
    try:
        steps = family.fit(model, clouds, **options)
    except pcf.training.TrainingDivergedError as error:
        steps = error.step
        failures.append(f"diverged at step {steps}")
    trained_seconds = time.perf_counter() - start
    model.eval()

    nats = None
    if family.has_density:
        bound = nats_per_point(model, _evaluated(category, protocol), protocol)
        nats = bound if math.isfinite(bound) else None
        if nats is None:
            failures.append(f"the held-out bound is {bound}")
    references = reference_clouds(category, protocol)
    samples, sampling_seconds = draw_samples(model, len(references), seed, protocol)
    scores, failed = judge(samples, references)
    return ModelRun(
        model=name,
        seed=seed,
        lr=lr,
        protocol=protocol,
        nats_per_point=nats,
        scores=scores,
        trained_seconds=trained_seconds,
        steps=steps,
        parameters=count_parameters(model),
        sampling_seconds=sampling_seconds,
        failures=failures + failed,
        environment=_environment(),
    )


def run_train_row(category: Category, protocol: Protocol) -> ModelRun:
    """The scores of train clouds in the place of samples: what a model that knows the data by heart would get."""
    references = reference_clouds(category, protocol)
    count = len(references)
    if len(category.train) < count:
        raise ValueError(
            f"{category.name}: {len(category.train)} train clouds cannot stand for {count} samples of the split "
            f"{protocol.split!r}"
        )
    generator = seeded_generator(0, "train clouds")
    draws = []
    for _ in range(protocol.draws):
        chosen = category.train[torch.randperm(len(category.train), generator=generator)[:count]]
        draws.append(some_points(chosen, protocol.num_points, generator))
    scores, failures = judge(torch.stack(draws), references.cpu())
    return ModelRun(TRAIN_ROW, 0, None, protocol, None, scores, 0.0, 0, 0, 0.0, failures, _environment())


@torch.no_grad()
def nats_per_point(model: Any, clouds: Tensor, protocol: Protocol) -> float:
    """The importance-weighted bound of thickened clouds, in nats per point.

    Burda, Grosse and Salakhutdinov, Importance weighted autoencoders, ICLR 2016: a lower bound of the log-density.
    """
    generator = seeded_generator(0, "scored points")
    clouds = some_points(clouds, protocol.scored_points, generator)
    clouds = clouds + protocol.noise * torch.randn(clouds.shape, generator=generator)
    # A model that is told how much noise a cloud has is told that it has all of it.
    options = {"noise_level": 1.0} if getattr(model, "noise_input", False) else {}
    total = 0.0
    at_once = max(1, AT_ONCE // (clouds.shape[1] * protocol.particles))
    with seeded(0, torch.device(protocol.device)):
        for part in clouds.split(at_once):
            part = part.to(protocol.device)
            total += float(model.log_prob(part, num_particles=protocol.particles, **options).double().sum())
    return total / (clouds.shape[0] * clouds.shape[1])


def draw_samples(model: Any, count: int, seed: int, protocol: Protocol) -> tuple[Tensor, float]:
    """Samples of shape `(draws, count, num_points, D)`, and the seconds that one cloud took."""
    device = torch.device(protocol.device)
    with seeded(seed, device):
        model.sample(1, protocol.num_points)
        start = time.perf_counter()
        draws = torch.stack([model.sample(count, protocol.num_points) for _ in range(protocol.draws)])
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return draws, (time.perf_counter() - start) / (protocol.draws * count)


def judge(draws: Tensor, references: Tensor) -> tuple[dict[str, list[float]], list[str]]:
    """The scores of every draw, and how the samples show that training failed.

    Training has failed if a sample has a coordinate that is not finite; such samples count against the model in every
    score, and a score that is itself not finite is left out. It has failed, too, if samples have collapsed: if, on the
    mean over the draws, the distance of two of them is below `LEAST_SPREAD` of that of two references, or they are
    nearest to a share of the references of at most `LEAST_COVERAGE`, or to a single one.
    """
    scores: dict[str, list[float]] = {}
    references = references.to(draws.device)
    within = pairwise(references)
    for draw in draws:
        for key, value in score(draw, references, within).items():
            scores.setdefault(key, []).append(value)
    failures = []
    bad = int((~draws.isfinite().all(-1).all(-1)).sum())
    if bad:
        failures.append(f"{bad} of {draws.shape[0] * draws.shape[1]} samples are not finite")
    spread, coverage = (sum(scores[key]) / len(draws) for key in ("spread-cd", "cov-cd"))
    if spread < LEAST_SPREAD or coverage <= max(LEAST_COVERAGE, 1 / len(references)):
        failures.append(f"collapsed: spread {spread:.3f}, coverage {coverage:.3f}")
    return {key: values for key, values in scores.items() if all(map(math.isfinite, values))}, failures


def reference_clouds(category: Category, protocol: Protocol) -> Tensor:
    """The clouds that samples are compared with, as they are, without noise."""
    return some_points(_evaluated(category, protocol), protocol.num_points, seeded_generator(0, "references"))


def some_points(clouds: Tensor, num_points: int, generator: torch.Generator) -> Tensor:
    """Random points of every cloud, without replacement.

    Raises:
        ValueError: if a cloud has not as many.
    """
    if clouds.shape[1] < num_points:
        raise ValueError(f"clouds of {clouds.shape[1]} points have no {num_points}: ask for fewer points")
    chosen = torch.rand(clouds.shape[:2], generator=generator).topk(num_points, -1).indices
    return clouds.take_along_dim(chosen.unsqueeze(-1), 1)


def _evaluated(category: Category, protocol: Protocol) -> Tensor:
    return category.test if protocol.split == "test" else category.validation


def _environment() -> dict[str, Any]:
    return {"threads": torch.get_num_threads(), **versions()}
