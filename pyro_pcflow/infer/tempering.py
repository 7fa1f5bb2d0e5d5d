"""The exponent of the likelihood by which a posterior is as sure as it is right, found on held-out clouds."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_pcflow.distributions import SoftHalfSpace, ThinnedPoint, one_sided
from pyro_pcflow.infer.checks import region_share
from pyro_pcflow.infer.completer import TEMPERED_AT, Completer
from pyro_pcflow.infer.completion import complete
from pyro_pcflow.infer.noise_space import without_validation
from pyro_pcflow.infer.views import random_directions
from pyro_pcflow.ops.progress import progress_bar
from pyro_pcflow.ops.random import seeded

__all__ = ["calibrate_temper"]

EXPONENTS = (1.0, 0.3, 0.1, 0.03, 0.01)
# Completions of a cloud, and hidden points of it.
NUM_SAMPLES, HIDDEN_POINTS = 32, 64
# Clouds below which their mean coverage is a guess: of a few alike, whatever exponent comes first seems right.
FEWEST_CLOUDS = 20
# The least log-probability that a point of a draw is hidden.
LEAST_HIDDEN = math.log(1e-3)
# Width of the sensor's edge, as a share of half of the longest side of a cloud.
SOFTNESS = 0.05


def calibrate_temper(
    completer: Completer,
    clouds: Tensor,
    *,
    level: float = 0.9,
    exponents: Sequence[float] = EXPONENTS,
    seed: int = 0,
    progress: bool | None = None,
) -> dict[int, dict[float, tuple[float, float]]]:
    """Find how far a model's likelihood can be trusted, and keep it in `completer.temper`.

    Held-out clouds are seen from one side, in 30, 100, 300 and 1000 points, and completed by `complete` from draws of
    the completer. Of each number of points the largest exponent is kept whose highest-density regions hold at least as
    many of the points that were hidden as they should: rather somewhat too wide than too sure. More points never get a
    larger one. It takes as long as several completions of all clouds.

    Args:
        completer: trained.
        clouds: held-out clouds of the kind that the model is for, thickened as in training, shape `(S, N, D)`; fifty
            are enough, and a warning says that fewer than twenty are not.
        level: of the regions.
        exponents: which are tried, in descending order.
        seed: decides views and draws; the state of torch's generators stays as it is.
        progress: show which exponents were tried, and what their regions hold; `None` does so after a second on a
            terminal, and in a line every half a minute in a log.

    Returns:
        By number of points and exponent that was tried, the coverage, and the mean log-density of hidden points, in
        nats per point.

    Raises:
        ValueError: if clouds are not finite or an option is out of range, or the model has classes.

    Examples:
        >>> import pyro_pcflow as pcf
        >>> vae = pcf.PointCloudVAE(latent_dim=4, decoder={"base": "mixture", "num_components": 4, "num_couplings": 0})
        >>> completer = Completer(vae, context_dim=8)
        >>> found = calibrate_temper(completer, vae.sample(20, 60), exponents=[0.01])
        >>> sorted(found), completer.temper.shape
        ([30, 100, 300, 1000], torch.Size([4]))
    """
    if completer.num_classes:
        raise ValueError("a completer of a model with classes cannot be calibrated: set completer.temper yourself")
    if clouds.dim() != 3 or not clouds.isfinite().all():
        raise ValueError(f"expected finite clouds of shape (S, N, D), got shape {tuple(clouds.shape)}")
    if not 0 < level < 1 or not exponents or not all(0 < exponent <= 1 for exponent in exponents):
        raise ValueError(
            f"expected a level and exponents between 0 and 1, got level={level}, exponents={list(exponents)}"
        )
    if len(clouds) < FEWEST_CLOUDS:
        warnings.warn(
            f"{len(clouds)} clouds do not tell how far a likelihood can be trusted, and exponents may be far too sure: "
            f"give at least {FEWEST_CLOUDS} held-out clouds, better 50, or a small temper= to complete",
            stacklevel=2,
        )
    remaining = sorted(exponents, reverse=True)
    found: dict[int, dict[float, tuple[float, float]]] = {}
    kept = []
    with progress_bar(progress, "calibration", unit="exponent") as bar:
        for count in TEMPERED_AT:
            found[count] = {}
            for exponent in remaining:
                # The same views for each exponent.
                with seeded(seed, clouds.device), torch.no_grad(), _trusted(completer, exponent):
                    covered, scores = _coverage(completer, clouds, count, level)
                held, score = covered.mean().item(), scores.mean().item()
                found[count][exponent] = held, score
                bar.set_postfix_str(f"{count} points, exponent {exponent:g}: regions hold {held:.1%}")
                bar.update()
                if held >= level:
                    break
            remaining = [other for other in remaining if other <= exponent]
            kept.append(exponent)
    completer.temper.copy_(torch.tensor(kept))
    return found


@contextmanager
def _trusted(completer: Completer, exponent: float) -> Iterator[None]:
    """Let a completer say this exponent of any number of points, so that what is tried is what "auto" will do.

    To give `temper=1` would not be the same: it asks for Bayes' rule, by which the likelihood also weighs modes.
    """
    before = completer.temper.clone()
    completer.temper.fill_(exponent)
    try:
        yield
    finally:
        completer.temper.copy_(before)


def _coverage(completer: Completer, clouds: Tensor, count: int, level: float) -> tuple[Tensor, Tensor]:
    """Coverage and score of the clouds that have hidden points, for one number of points."""
    model = completer.model
    low, high = clouds.amin(1), clouds.amax(1)
    softness = SOFTNESS * 0.5 * (high - low).amax(-1).mean().item()
    direction = random_directions(clouds)
    offset = (0.5 * (low + high) * direction).sum(-1)

    def seen(point: Distribution) -> ThinnedPoint:
        return one_sided(point, direction, offset, softness)

    recorded = torch.rand(clouds.shape[:2], device=clouds.device) < _retention(clouds, direction, offset, softness)
    partial, mask = _some(clouds, recorded, count)
    hidden, hidden_mask = _some(clouds, ~recorded, HIDDEN_POINTS)
    with without_validation():
        result = complete(
            model,
            partial,
            partial.shape[1],
            mask=mask,
            observe=seen,
            method="hmc",
            proposal=completer,
            num_samples=NUM_SAMPLES,
            check=False,
        )

        def unseen(z: Tensor, some: Tensor | slice) -> ThinnedPoint:
            point = model.decoder.condition(model.decoder_context(z))
            return one_sided(point, direction[some], offset[some], softness).complement()

        # A draw that hides next to nothing says nothing of hidden points, of which none could be drawn either.
        latents = result.latents["z"]
        hides = torch.stack([unseen(z, slice(None)).log_normalizer() for z in latents])
        best = latents.gather(0, hides.argmax(0)[None, :, None].expand_as(latents))
        latents = torch.where((hides > LEAST_HIDDEN).unsqueeze(-1), latents, best)
        some = hidden_mask.any(-1) & (hides > LEAST_HIDDEN).any(0)
        hidden, hidden_mask = hidden[some], hidden_mask[some]
        densities = [unseen(z, some) for z in latents[:, some]]
        covered = region_share(densities, hidden, hidden_mask, level)
        log_prob = torch.stack([density.log_prob(hidden.movedim(1, 0)) for density in densities])
        height = (log_prob.logsumexp(0) - math.log(len(densities))).movedim(0, 1)
    return covered, torch.where(hidden_mask, height, 0.0).sum(1) / hidden_mask.sum(1)


def _retention(clouds: Tensor, direction: Tensor, offset: Tensor, softness: float) -> Tensor:
    sensor = SoftHalfSpace(direction.unsqueeze(1), offset.unsqueeze(1), softness)
    return sensor(clouds).exp()


def _some(clouds: Tensor, chosen: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """At most so many of the chosen points of each cloud, and where they are points."""
    keys = torch.where(chosen, torch.rand_like(clouds[..., 0]), -1.0).topk(min(count, clouds.shape[1]), -1)
    return clouds.gather(1, keys.indices.unsqueeze(-1).expand(-1, -1, clouds.shape[-1])), keys.values >= 0
