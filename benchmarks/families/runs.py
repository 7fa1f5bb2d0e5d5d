"""One run of one model family: trained, sampled and scored."""

from __future__ import annotations

import math
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import pyro_pcflow as pcf
from benchmarks.common.categories import Category
from benchmarks.common.randomness import generator_for, some_points
from benchmarks.common.scores import count_parameters
from benchmarks.families.members import FAMILIES, Size
from benchmarks.families.records import REFINE_STEPS, ModelRun, Training

# Samples this much alike, or that find so few references, are one shape, or none.
LEAST_SPREAD, LEAST_COVERAGE = 0.1, 0.05


class Judge:
    """Compares samples with the clouds of a split, as they are, without noise.

    Args:
        category: the data.
        split: what is evaluated on, `"test"` or `"val"`.
        num_points: points of a sampled cloud and of a reference.
        draws: sets of samples, each with as many clouds as there are references.
        folder: where the distances between references are kept from one call to the next.

    Attributes:
        clouds: the whole clouds of the split.
        references: some points of each, shape `(R, num_points, D)`.
    """

    def __init__(self, category: Category, split: str, num_points: int, draws: int, folder: str | None = None) -> None:
        self.category, self.split, self.num_points, self.draws, self.folder = category, split, num_points, draws, folder
        self.clouds = category.test if split == "test" else category.validation
        self.references = some_points(self.clouds, num_points, generator_for(0, "references"))

    def report(
        self, draws: Tensor, name: str, likelihood: pcf.metrics.LogLikelihood | None = None
    ) -> pcf.metrics.Report:
        """What `pcf.metrics.evaluate` says of samples, shape `(draws, R, num_points, D)`."""
        return pcf.metrics.evaluate(
            draws,
            self.references.to(draws.device),
            name=name,
            data=pcf.metrics.DataDescription(
                self.category.name, self.split, units="standard deviation of the train split"
            ),
            likelihood=likelihood,
            path=self.folder,
        )

    def train_report(self) -> pcf.metrics.Report:
        """Train clouds in the place of samples: the scores of a model that memorises its training set.

        Raises:
            ValueError: if there are not enough train clouds.
        """
        train, count = self.category.train, len(self.references)
        if len(train) < count:
            raise ValueError(
                f"{self.category.name}: {len(train)} train clouds cannot stand for {count} samples of the split "
                f"{self.split!r}"
            )
        generator = generator_for(0, "train clouds")
        draws = []
        for _ in range(self.draws):
            chosen = train[torch.randperm(len(train), generator=generator)[:count]]
            draws.append(some_points(chosen, self.num_points, generator))
        return self.report(torch.stack(draws), "train split")


def run_model(name: str, judge: Judge, seed: int, lr: float | None, training: Training) -> ModelRun:
    """Build, train, sample and score one model."""
    family = FAMILIES[name]
    device = torch.device(training.device)
    clouds = judge.category.train.to(device)
    lr = family.lr if lr is None else lr
    torch.manual_seed(seed)
    model = family.make(Size(len(clouds), judge.num_points, clouds.shape[-1])).to(device)
    failures = []
    options: dict[str, Any] = {"max_seconds": training.seconds, "max_steps": training.max_steps, "lr": lr, "seed": seed}
    start = time.perf_counter()
    try:
        steps = family.fit(model, clouds, **options)
    except pcf.training.TrainingDivergedError as error:
        steps = error.step
        failures.append(f"diverged at step {steps}")
    trained_seconds = time.perf_counter() - start
    model.eval()

    likelihood = bound(model, judge.clouds, training) if family.has_density else None
    if likelihood is not None and not math.isfinite(likelihood.nats_per_point):
        failures.append(f"the held-out bound is {likelihood.nats_per_point}")
    refined = None
    if likelihood is not None and isinstance(model, pcf.PointCloudVAE | pcf.models.AutoDecoder) and not failures:
        refined = bound(model, judge.clouds, training, REFINE_STEPS).nats_per_point
    samples, sampling_seconds = draw_samples(model, len(judge.references), judge.num_points, judge.draws, seed, device)
    report = judge.report(samples, name, likelihood)
    return ModelRun(
        model=name,
        seed=seed,
        lr=lr,
        training=training,
        report=report,
        trained_seconds=trained_seconds,
        steps=steps,
        parameters=count_parameters(model),
        sampling_seconds=sampling_seconds,
        threads=torch.get_num_threads(),
        failures=failures + failures_of(report),
        refined_nats_per_point=refined,
    )


def bound(model: Any, clouds: Tensor, training: Training, refine_steps: int = 0) -> pcf.metrics.LogLikelihood:
    """The importance-weighted bound of thickened clouds, with posteriors that are refined by so many steps."""
    generator = generator_for(0, "scored points")
    clouds = some_points(clouds, training.scored_points, generator)
    clouds = clouds + training.noise * torch.randn(clouds.shape, generator=generator)
    if getattr(model, "noise_input", False):
        # A model that is told how much noise a cloud has is told that it has all of it.
        model = SimpleNamespace(log_prob=partial(model.log_prob, noise_level=1.0))
    return pcf.metrics.importance_weighted_bound(
        model, clouds.to(training.device), num_particles=training.particles, refine_steps=refine_steps
    )


def draw_samples(
    model: Any, num_clouds: int, num_points: int, draws: int, seed: int, device: torch.device
) -> tuple[Tensor, float]:
    """Samples of shape `(draws, num_clouds, num_points, D)`, and the seconds that one cloud took."""
    torch.manual_seed(seed)
    model.sample(1, num_points)
    start = time.perf_counter()
    samples = torch.stack([model.sample(num_clouds, num_points) for _ in range(draws)])
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return samples, (time.perf_counter() - start) / (draws * num_clouds)


def failures_of(report: pcf.metrics.Report) -> list[str]:
    """How samples show that training failed.

    It has failed if a sample has a coordinate that is not finite or too large; such samples count against the model in
    every score. It has failed, too, if samples have collapsed: if, on the mean over the draws, the distance of two of
    them is below `LEAST_SPREAD` of that of two references, or they are nearest to a share of the references of at most
    `LEAST_COVERAGE`, or to a single one.
    """
    failures = []
    failed, count = sum(report.failed), report.protocol.num_clouds
    if failed:
        failures.append(f"{failed} of {len(report.failed) * count} samples are not finite")
    spread, coverage = report["spread-cd"], report["cov-cd"]
    if spread < LEAST_SPREAD or coverage <= max(LEAST_COVERAGE, 1 / count):
        failures.append(f"collapsed: spread {spread:.3f}, coverage {coverage:.3f}")
    return failures
