"""The road of completers: the likelihood of latents given random views of clouds."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pyro_pcflow.ops.random import seeded, seeded_generator
from pyro_pcflow.training.cloud_batches import CloudBatch, draw_batch
from pyro_pcflow.training.cloud_objective import CLOUDS_PER_STEP, CloudObjective
from pyro_pcflow.training.objective import completer_of, num_classes_of, share_of_rows
from pyro_pcflow.training.options import HELD_OUT, CloudSampling, check_kind

__all__ = ["LikelihoodOfLatents", "ViewBatch"]

# Points of a cloud that are looked at: more tell no more of its latents.
POINTS_OF_A_CLOUD = 2048
# The least and the largest number of points of a view, uniform in its logarithm.
FEWEST, MOST = 20, 1000


@dataclass(frozen=True)
class ViewBatch:
    """Latents, and what a sensor saw of their clouds.

    Attributes:
        noise: the noise that the prior carries to the latents, shape `(B, L)`.
        partial: recorded points, shape `(B, N, D)`.
        mask: True at points, shape `(B, N)`.
        labels: numbers of classes, shape `(B,)`, or None.
    """

    noise: Tensor
    partial: Tensor
    mask: Tensor
    labels: Tensor | None


class LikelihoodOfLatents(CloudObjective):
    """The negative log-density of latents given random views, under a `Completer`.

    `fit` builds it from its arguments of the same names. One half of a batch are clouds of the data, with latents from
    the posterior that the model's encoder finds in other points of them, half of a cloud and at most 1024; the other
    half are clouds that the model draws. All are seen in the same random ways. The posterior of a cloud that is not
    augmented is found once and kept.

    Args:
        module: a `Completer`.
        data: clouds, or a pair of clouds and labels, see `fit`.
        batch_size: clouds of the data per step; as many are drawn from the model.
        noise: as for `EvidenceLowerBound`.
        held_out: as for `EvidenceLowerBound`.
        seed: as for `EvidenceLowerBound`.
        sampling: its `augment`; at most 2048 points of a cloud are looked at, whatever else it says.

    Raises:
        TypeError: if the data is of a wrong type.
        ValueError: if an argument, the shape or a value of the data is out of range, or does not fit the module.
    """

    score = "nats_over_prior"
    splits = True
    counts_points = False

    def __init__(
        self,
        module: nn.Module,
        data: Any,
        *,
        batch_size: int = CLOUDS_PER_STEP,
        noise: float | str = 0.0,
        held_out: Any = HELD_OUT,
        seed: int = 0,
        sampling: CloudSampling | None = None,
    ) -> None:
        self._completer = completer_of(module)
        self.takes_labels = bool(num_classes_of(module))
        sampling = CloudSampling() if sampling is None else check_kind("sampling", sampling, CloudSampling)
        # One half of the points for the encoder, the other one to be looked at.
        half = POINTS_OF_A_CLOUD // 2
        sampling = replace(sampling, target_points=half, encoder_points=half, most_points=None)
        # Posteriors of training clouds, by their numbers.
        self._found: dict[int, tuple[Tensor, Tensor]] = {}
        super().__init__(
            module, data, batch_size=batch_size, noise=noise, held_out=held_out, seed=seed, sampling=sampling
        )

    def batch(self, step: int) -> ViewBatch:
        """Views of some clouds of the data, and of as many that the model draws."""
        batch = self.batches.batch(step)
        share = float(torch.rand((), generator=seeded_generator(self.seed, f"points of a view {step}")))
        num_points = round(FEWEST * (MOST / FEWEST) ** share)
        with torch.no_grad():
            loc, scale = self._encoded(batch) if self.augmentations else self._known(batch)
            latents = loc + scale * torch.randn_like(loc)
            noise = self._completer.to_noise(latents, labels=batch.labels)
            # Of a class, where there are any, that the data has as often.
            simulated, clouds = self._completer.simulate(len(latents), batch.clouds.shape[1], labels=batch.labels)
            whole = torch.ones(clouds.shape[:-1], dtype=torch.bool, device=clouds.device)
            mask = whole if batch.mask is None else batch.mask
            partial, seen = self._seen(torch.cat([batch.clouds, clouds]), torch.cat([mask, whole]), num_points)
        labels = None if batch.labels is None else batch.labels.repeat(2)
        return ViewBatch(torch.cat([noise, simulated]), partial, seen, labels)

    def share(self, batch: ViewBatch, rank: int, size: int) -> ViewBatch:  # type: ignore[override]
        """The views of one process."""
        rows = share_of_rows(len(batch.noise), rank, size)
        labels = None if batch.labels is None else batch.labels[rows]
        return ViewBatch(batch.noise[rows], batch.partial[rows], batch.mask[rows], labels)

    def loss(self, batch: ViewBatch) -> Tensor:
        """The mean negative log-density of the latents' noise, in nats per cloud, and over the guesses."""
        guesses = self._completer.guesses(batch.partial, batch.mask, labels=batch.labels)
        return -torch.stack([guess.log_prob(batch.noise).mean() for guess in guesses]).mean()

    def evaluate(self) -> dict[str, float]:
        """What views of held-out clouds, the same each time, tell of their latents.

        Returns:
            `nats_over_prior`: the mean log-density of latents of held-out clouds over that under the prior, in nats per
            cloud; `simulated_nats_over_prior`: the same of clouds that the model draws, an estimate of the information
            that a view has of a latent if the model is right.
        """
        if not self.held_out:
            return {}
        totals = {"nats_over_prior": 0.0, "simulated_nats_over_prior": 0.0}
        count = 0
        with seeded(self.seed, self.held_out[0].clouds.device):
            for batch in self.held_out:
                loc, scale = self._encoded(batch)
                latents = loc + scale * torch.randn_like(loc)
                noise = self._completer.to_noise(latents, labels=batch.labels)
                simulated, clouds = self._completer.simulate(len(latents), batch.clouds.shape[1], labels=batch.labels)
                mask = torch.ones(clouds.shape[:-1], dtype=torch.bool, device=clouds.device)
                num_points = round(math.sqrt(FEWEST * MOST))
                true = mask if batch.mask is None else batch.mask
                for name, drawn, points, shown in (
                    ("nats_over_prior", noise, batch.clouds, true),
                    ("simulated_nats_over_prior", simulated, clouds, mask),
                ):
                    partial, seen = self._seen(points, shown, num_points)
                    posterior = self._completer.guesses(partial, seen, labels=batch.labels)[-1]
                    prior = self._completer.noise_prior(batch.labels)
                    totals[name] += float((posterior.log_prob(drawn) - prior.log_prob(drawn)).sum())
                count += len(latents)
        return {name: total / count for name, total in totals.items()}

    def _encoded(self, batch: CloudBatch) -> tuple[Tensor, Tensor]:
        posterior = self._completer.encode(batch.encoder_points, batch.encoder_mask, labels=batch.labels)
        return posterior.mean, posterior.stddev

    def _known(self, batch: CloudBatch) -> tuple[Tensor, Tensor]:
        """The posteriors of training clouds, which follow from the seed and their numbers alone."""
        device = batch.clouds.device
        numbers = batch.index.tolist()
        for number in numbers:
            if number not in self._found:
                name = f"posterior {number}"
                some = torch.tensor([number])
                generator = seeded_generator(self.seed, name)
                alone = draw_batch(self._training, some, 1, POINTS_OF_A_CLOUD // 2, generator)
                noise = torch.randn(alone.encoder_points.shape, generator=generator).to(alone.encoder_points)
                alone = replace(alone, encoder_points=alone.encoder_points + self.noise * noise)
                loc, scale = self._encoded(alone)
                self._found[number] = loc[0].cpu(), scale[0].cpu()
        loc, scale = (torch.stack(parts).to(device) for parts in zip(*map(self._found.get, numbers), strict=True))
        return loc, scale

    def _seen(self, points: Tensor, mask: Tensor, num_points: int) -> tuple[Tensor, Tensor]:
        """At most so many points of random views, and where they are points."""
        points, seen = self._completer.views(points, mask)
        keys = torch.where(seen, torch.rand_like(points[..., 0]), -1.0)
        found = keys.topk(min(num_points, keys.shape[-1]), -1)
        return points.gather(1, found.indices.unsqueeze(-1).expand(-1, -1, points.shape[-1])), found.values >= 0
