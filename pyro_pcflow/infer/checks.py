"""What speaks against a posterior: whether it would have made what was observed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Distribution

from pyro_pcflow.distributions import NothingRecordedError
from pyro_pcflow.models.replicates import DRAWN_POINTS, TAIL, log_distance_ratio, unexplained

__all__ = ["CompletionCheck", "RegistrationCheck", "check_draws", "check_poses", "region_share"]

# The limits below were chosen on clouds of the val split by `benchmarks.checks`, but for that of r_hat, which was
# raised for good test clouds of 1000 points. Largest share of points that no draw explains, and least probability of
# so many by chance.
MOST_STRANGE, LEAST_CHANCE = 0.03, 1e-3
# Largest share of points that a draw does not explain, of chains and of a completer, which looks less closely, up to so
# many standard errors.
MOST_MISSED, MOST_MISSED_BY_COMPLETER, ERRORS = 0.2, 0.5, 2.0
# Logarithm of how far the points that should have been observed are from those that were, over how far from another
# replicate; standard deviations that the log-density of latents may lie below its mean under the prior; and split
# r_hat of the log-likelihood.
FARTHEST, LOWEST_PRIOR, LARGEST_R_HAT = 0.35, -3.5, 2.5
# Ratios of the sizes of what was observed, which may be a part, and of the shapes that were found.
LEAST_RATIO, LARGEST_RATIO = 0.2, 1.7
# Largest share of a scan that is not of the object, chosen on scans of meshes by `benchmarks.registration --doubts`.
MOST_OUTLIERS = 0.35


@dataclass(frozen=True, eq=False)
class CompletionCheck:
    """What speaks against completions, of each cloud; true if nothing does.

    Attributes:
        strange: share of observed points that no draw explains: whose density under all draws together is below that of
            99% of replicates, shape `(*batch,)`; 1% if all is right (Gelman, Meng and Stern, Posterior predictive
            assessment of model fitness via realized discrepancies, Statistica Sinica 1996).
        chance: probability of as many such points or more, if each is one with a probability of 1%.
        missed: share of observed points that a draw does not explain, alike, mean over draws: some more than 1% where
            draws differ, much more where none of them is right.
        limit: the largest such share that is not doubted.
        missing: logarithm of how far points that the sensor should have recorded lie from those that it did, over how
            far they lie from other such points; 0 if all is right, and NaN where a completer was asked alone, to which
            any part of a shape is one.
        prior: how many standard deviations the log-density of the latents lies above its mean under the prior; NaN of a
            model that cannot be evaluated for many draws at once.
        r_hat: split r_hat of the log-likelihood; NaN without chains.
        ratio: size of the observed, a median distance from its middle, over that of the shapes that were found.
        messages: what to say of each kind of trouble, with the number of clouds that have it.
    """

    strange: Tensor
    chance: Tensor
    missed: Tensor
    limit: Tensor
    missing: Tensor
    prior: Tensor
    r_hat: Tensor
    ratio: Tensor
    messages: tuple[str, ...]

    @property
    def passed(self) -> Tensor:
        """True at clouds of which nothing speaks against what was found, shape `(*batch,)`."""
        return ~torch.stack(list(_troubles(self).values())).any(0)

    def __bool__(self) -> bool:
        return bool(self.passed.all())

    def warn(self) -> None:
        """Warn in one sentence if something speaks against what was found."""
        if self.messages:
            warnings.warn("; ".join(self.messages), UserWarning, stacklevel=3)


def check_draws(
    seen: Sequence[Distribution],
    whole: Sequence[Distribution],
    partial: Tensor,
    mask: Tensor,
    *,
    prior: Tensor,
    r_hat: Tensor | None,
    any_part: bool,
) -> CompletionCheck:
    """Compare what was observed with what the draws of a posterior would have made.

    Args:
        seen: of each draw, the density of a recorded point, with `batch_shape (*batch,)`; at least two draws.
        whole: of each draw, the density of a point of the shape.
        partial: observed points, shape `(*batch, N, D)`.
        mask: True at points, shape `(*batch, N)`.
        prior: log-density of the latents under the prior, of draws, in standard deviations of it, shape `(*batch,)`.
        r_hat: of the log-likelihood, shape `(*batch,)`, if there were chains.
        any_part: whether the posterior holds for any part of a shape, so that nothing can be missing.
    """
    batch = partial.shape[:-2]
    nothing = partial.new_full(batch, math.nan)
    count = mask.sum(-1)
    most = MOST_MISSED_BY_COMPLETER if any_part else MOST_MISSED
    missing = nothing
    try:
        strange, missed = unexplained(seen, partial, mask)
        if not any_part:
            missing = log_distance_ratio(seen, partial, mask)
    except NothingRecordedError:
        # A shape of which the sensor sees nothing would not have made a single point.
        strange = missed = torch.ones_like(nothing)
    chance = stats.binom.sf((strange * count).round().cpu().numpy() - 1, count.cpu().numpy(), TAIL)
    return _with_messages(
        strange=strange,
        chance=torch.as_tensor(chance).to(strange),
        missed=missed,
        limit=most + ERRORS * (most * (1 - most) / count.clamp(min=1)).sqrt(),
        missing=missing,
        prior=prior.expand(batch),
        r_hat=nothing if r_hat is None else r_hat.expand(batch),
        ratio=_ratio(whole, partial, mask),
    )


def region_share(densities: Sequence[Distribution], points: Tensor, mask: Tensor, level: float = 0.9) -> Tensor:
    """The share of points of clouds that lie within the highest-density region of a posterior predictive.

    The region of each draw is that of the mixture of all others, from which that draw is as independent as the truth
    is: regions of a few draws would be too small for either, if they were compared with their own points.

    Args:
        densities: of points, given each of at least two draws of the posterior, with `batch_shape (*batch,)`.
        points: shape `(*batch, M, D)`.
        mask: True at points, shape `(*batch, M)`.
        level: of the region.

    Returns:
        Shape `(*batch,)`.
    """
    batch = points.shape[:-2]
    drawn = torch.stack([density.expand(batch).sample(torch.Size((DRAWN_POINTS,))) for density in densities])
    own = torch.arange(len(densities)).repeat_interleave(DRAWN_POINTS)
    places = drawn.flatten(0, 1)  # (K * P, *batch, D)
    of_drawn = torch.stack([density.log_prob(places) for density in densities])  # (K, K * P, *batch)
    of_drawn[own, torch.arange(len(places))] = -torch.inf
    others = of_drawn.logsumexp(0) - math.log(len(densities) - 1)
    of_points = torch.stack([density.log_prob(points.movedim(-2, 0)) for density in densities])
    height = of_points.logsumexp(0) - math.log(len(densities))
    inside = (height >= others.quantile(1 - level, dim=0)).movedim(0, -1)
    return (inside & mask).sum(-1) / mask.sum(-1).clamp(min=1)


def _ratio(whole: Sequence[Distribution], partial: Tensor, mask: Tensor) -> Tensor:
    """Size of the observed over that of whole shapes: the median distance from the middle of each."""
    drawn = torch.stack([density.expand(partial.shape[:-2]).sample(torch.Size((DRAWN_POINTS,))) for density in whole])
    shapes = drawn.flatten(0, 1).movedim(0, -2)
    sizes = [
        (points - points.nanmedian(-2, keepdim=True).values).norm(dim=-1).nanmedian(-1).values
        for points in (partial.masked_fill(~mask.unsqueeze(-1), torch.nan), shapes)
    ]
    return (sizes[0] / sizes[1]).nan_to_num(nan=1.0)


def _troubles(check: CompletionCheck) -> dict[str, Tensor]:
    """Which clouds have which trouble."""
    size = (check.ratio > LARGEST_RATIO) | (check.ratio < LEAST_RATIO)
    other = (check.missed > check.limit) & ~size
    strange = (check.strange > MOST_STRANGE) & (check.chance < LEAST_CHANCE) & ~size & ~other
    return {
        "other units: the observed has another size than the shapes that were found": size,
        "outliers, for which give observe= a background": strange,
        "other units, another pose or another kind of object than the model was trained on": other,
        "a part that the sensor does not see, which give observe= or a completer": check.missing > FARTHEST,
        "latents that the prior has next to never: another kind of object": check.prior < LOWEST_PRIOR,
        "chains that disagree: give a proposal, more warmup_steps or num_chains": check.r_hat > LARGEST_R_HAT,
    }


def _with_messages(**statistics: Tensor) -> CompletionCheck:
    check = CompletionCheck(**statistics, messages=())
    total = check.strange.numel()
    messages = []
    for reason, clouds in _troubles(check).items():
        count = int(clouds.sum())
        if count:
            which = "the cloud" if total == 1 else f"{count} of {total} clouds"
            messages.append(f"what was found may be wrong, as it would not have made {which}: likely {reason}")
    return CompletionCheck(**statistics, messages=tuple(messages))


@dataclass(frozen=True, eq=False)
class RegistrationCheck:
    """What speaks against poses; true if nothing does.

    Attributes:
        outliers: mean probability of the scan's points to be of something else than the object.
        missed: share of the others that a draw does not explain, see `CompletionCheck`.
        missing: logarithm of how far points that should have been recorded lie from those that were, over how far they
            lie from other such points; 0 if all is right.
        r_hat: the largest one of the likeliest mode; NaN without chains.
        messages: what to say of each kind of trouble.
    """

    outliers: float
    missed: float
    missing: float
    r_hat: float
    messages: tuple[str, ...]

    def __bool__(self) -> bool:
        return not self.messages

    def warn(self) -> None:
        """Warn in one sentence if something speaks against what was found."""
        if self.messages:
            warnings.warn("; ".join(self.messages), UserWarning, stacklevel=3)


def check_poses(
    densities: Sequence[Distribution], scan: Tensor, outlier_probability: Tensor, r_hat: Tensor | None
) -> RegistrationCheck:
    """Compare a scan with what an object would have made of it.

    Args:
        densities: of a recorded point of the object, in each of at least two draws of its pose, with no batch shape.
        scan: shape `(N, 3)`.
        outlier_probability: of each point, shape `(N,)`.
        r_hat: of the likeliest mode, if there were chains.
    """
    outliers = float(outlier_probability.mean())
    mask = outlier_probability < 0.5
    missed, missing, limit = 1.0, math.inf, 0.0
    if mask.any():
        try:
            missed = float(unexplained(densities, scan, mask)[1])
            missing = float(log_distance_ratio(densities, scan, mask))
            limit = MOST_MISSED + ERRORS * math.sqrt(MOST_MISSED * (1 - MOST_MISSED) / int(mask.sum()))
        except NothingRecordedError:
            pass
    largest = math.nan if r_hat is None else float(r_hat.max())
    troubles = {
        "other units, another object than that of the flow, or more outliers than were expected": outliers
        > MOST_OUTLIERS
        or missed > limit,
        "a part that the sensor does not see, which give observe=": missing > FARTHEST,
        "chains that disagree: the posterior is wider than they walked": largest > LARGEST_R_HAT,
    }
    messages = tuple(
        f"the pose may be wrong, as the object in it would not have made the scan: likely {reason}"
        for reason, true in troubles.items()
        if true
    )
    return RegistrationCheck(outliers, missed, missing, largest, messages)
