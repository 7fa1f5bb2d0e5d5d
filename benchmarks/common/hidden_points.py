"""How well draws of a posterior over latents tell of the points that a sensor hid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.common.sensors import Sensor, draw_points

# Levels of the regions and intervals whose coverage is looked at.
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
# Points of a draw's whole cloud, and hidden ones of it that functionals are taken of.
WHOLE, HIDDEN = 2048, 250
# Draws that a score is of: it grows with their number, that of a wide posterior the longest.
DRAWS_OF_SCORE = 64
# Hidden points of all draws together by which the height of a region is found.
REGION_POINTS = 512


@dataclass(frozen=True)
class Scores:
    """What a posterior is worth, for each of `B` clouds.

    Attributes:
        score: mean log predictive density of hidden points, in nats per point, shape `(B,)`: of 64 draws, averaged over
            as many sets of them as there are, since that of a single one varies by half a nat for some clouds.
        regions: share of hidden points within the highest-density region of each of `LEVELS`, shape `(B, levels)`.
        intervals: share of ten functionals of the hidden part, the mean and the 10% and 90% quantiles of each
            coordinate and the share of points that are hidden, within their central intervals, alike.
    """

    score: Tensor
    regions: Tensor
    intervals: Tensor


def functionals(hidden: Tensor, mask: Tensor, share: Tensor) -> Tensor:
    """Ten numbers of hidden points `(B, M, 3)`, shape `(B, 10)`."""
    known = hidden.masked_fill(~mask.unsqueeze(-1), torch.nan)
    quantiles = known.nanquantile(torch.tensor([0.1, 0.9]), dim=1)
    return torch.cat([known.nanmean(1), *quantiles, share.unsqueeze(-1)], -1)


def score_hidden(model: Any, latents: Tensor, sensor: Sensor, clouds: Tensor, recorded: Tensor) -> Scores:
    """Compare draws of posteriors with the points of clouds that were not recorded.

    The density of a hidden point given a draw is that of a point of the whole shape, times the probability that the
    sensor misses it there, over the share that it misses of a simulated cloud. Where that probability depends on the
    rest of the shape, as for a camera, it is left out of the height of points for all methods alike. The heights of a
    draw's own points are of the mixture of all other draws, see `pyro_pcflow.infer.checks.region_share`.

    Args:
        model: a model of many clouds.
        latents: draws, shape `(K, B, L)`.
        sensor: what recorded the clouds.
        clouds: whole clouds, shape `(B, N, 3)`.
        recorded: True at recorded points, shape `(B, N)`.
    """
    count = len(latents)
    each = -(-REGION_POINTS // count)
    hidden, mask = draw_points(clouds, ~recorded, HIDDEN)
    truth = functionals(hidden, mask, 1 - recorded.float().mean(1))
    densities, shares, drawn, drawn_masks, found = [], [], [], [], []
    for draw in latents:
        density = model.decoder.condition(model.decoder_context(draw))
        whole = density.sample(torch.Size((WHOLE,))).movedim(0, 1)
        missed = ~sensor.records(whole)
        part, part_mask = draw_points(whole, missed, HIDDEN)
        # A draw of which nothing would be hidden still gives hidden points a finite density.
        share = (missed.sum(1) + 0.5) / (WHOLE + 1)
        densities.append(density)
        shares.append(share.log())
        drawn.append(part[:, :each])
        drawn_masks.append(part_mask[:, :each])
        found.append(functionals(part, part_mask, missed.float().mean(1)))
    points = torch.cat([hidden, *drawn], 1).movedim(1, 0)  # (P, B, 3)
    missed_there = sensor.log_hidden(points)
    heights = torch.stack(
        [density.log_prob(points) - share for density, share in zip(densities, shares, strict=True)]
    ) + missed_there.clamp(min=-1e3)
    of_hidden, of_drawn = heights[:, : hidden.shape[1]], heights[:, hidden.shape[1] :]
    own = torch.arange(count).repeat_interleave(drawn[0].shape[1])
    of_drawn[own, torch.arange(len(own))] = -torch.inf
    others = (of_drawn.logsumexp(0) - math.log(count - 1)).mT
    others = others.masked_fill(~torch.cat(drawn_masks, 1), torch.nan)
    height = (of_hidden.logsumexp(0) - math.log(count)).mT
    levels = torch.tensor(LEVELS)
    bounds = others.nanquantile(1 - levels, dim=1).mT  # (B, levels)
    inside = (height.unsqueeze(-1) >= bounds.unsqueeze(1)) & mask.unsqueeze(-1)
    number = mask.sum(1).clamp(min=1)
    below = (torch.stack(found) < truth).float().mean(0)  # (B, 10)
    within = (below - 0.5).abs().unsqueeze(-1) <= 0.5 * levels
    sets = max(1, count // DRAWS_OF_SCORE)
    scored = of_hidden[: count // sets * sets].unflatten(0, (sets, -1)).logsumexp(1) - math.log(count // sets)
    score = torch.where(mask, scored.mean(0).mT, 0.0).sum(1) / number
    return Scores(score, inside.sum(1) / number.unsqueeze(-1), within.float().mean(1))
