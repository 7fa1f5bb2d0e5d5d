"""Poses of an object in a scan, from many starts at once: annealed expectation-maximisation over soft matches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_pcflow.transforms import rotation_vector

__all__ = ["Poses", "search_poses", "weighted_alignment"]


@dataclass(frozen=True, eq=False)
class Poses:
    """Where an object may be: a point `z` of it, counted from its centre, lies at `scale * rotation @ z + center`.

    Attributes:
        rotation: shape `(S, 3, 3)`.
        center: shape `(S, 3)`.
        scale: shape `(S,)`.
    """

    rotation: Tensor
    center: Tensor
    scale: Tensor

    def __getitem__(self, rows: Tensor) -> Poses:
        return Poses(self.rotation[rows], self.center[rows], self.scale[rows])


@dataclass(frozen=True)
class _Level:
    """How wide points are blurred, per radius of the object, and what is compared with what, how often."""

    blur: float
    object_points: int
    scan_points: int
    steps: int
    kept: int


# From a blur in which half of all rotations lead to the right one, to one in which the exact density takes over.
LEVELS = (
    _Level(0.5, 96, 96, 5, 256),
    _Level(0.25, 128, 96, 6, 128),
    _Level(0.12, 256, 160, 8, 64),
    _Level(0.06, 512, 300, 8, 32),
    _Level(0.03, 1024, 300, 8, 32),
)
# Scales are as they were drawn until the blur is so small that it does not bias them.
SCALED_BELOW = 0.2


def search_poses(points: Tensor, scan: Tensor, starts: Poses, outlier_probability: float, *, fit_scale: bool) -> Poses:
    """Lead poses uphill in the density of an object that is blurred less and less.

    The object is a mixture of Gaussians around points of it, all of one width, beside a uniform background. A step of
    expectation-maximisation is a weighted alignment, see `weighted_alignment`, of the scan to what each of its points
    is matched with; the width shrinks from level to level (Granger and Pennec, Multi-scale EM-ICP, ECCV 2002; Myronenko
    and Song, Point set registration: coherent point drift, PAMI 2010). Poses that have come to where a better one is
    are dropped between levels.

    Args:
        points: of the object, counted from its centre, shape `(K, 3)`, in random order.
        scan: shape `(N, 3)`.
        starts: where to begin.
        outlier_probability: of a point of the scan.
        fit_scale: whether the scale is unknown.

    Returns:
        The poses that are left, from the most likely on.
    """
    radius = points.square().sum(-1).mean().sqrt()
    extent = scan.amax(0) - scan.amin(0)
    volume = extent.clamp(min=1e-3 * float(extent.max())).prod()
    poses = starts
    for level in LEVELS:
        some = scan[torch.randperm(len(scan), device=scan.device)[: level.scan_points]]
        mixture = points[: level.object_points]
        blur = level.blur * radius
        for _ in range(level.steps):
            shares, matched, spread, log_likelihood = _match(mixture, some, poses, blur, outlier_probability, volume)
            poses = weighted_alignment(
                shares, matched, spread, some, poses, fit_scale=fit_scale and level.blur < SCALED_BELOW
            )
        *_, log_likelihood = _match(mixture, some, poses, blur, outlier_probability, volume)
        poses = poses[_best(poses, log_likelihood, level, radius)]
    return poses


def _match(
    points: Tensor, scan: Tensor, poses: Poses, blur: Tensor, outlier_probability: float, volume: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What each point of a scan is matched with, under each of `S` poses.

    Returns:
        Probabilities that points belong to the object, shape `(S, N)`; means of the object's points that they are
        matched with, `(S, N, 3)`; means of the squares of these, `(S, N)`; and the log-likelihood, `(S,)`.
    """
    variance = blur.square()
    own = (scan - poses.center.unsqueeze(-2)) @ poses.rotation / poses.scale[:, None, None]
    squares = points.square().sum(-1)
    # The square of a scan's own point is common to all matches.
    height = (own @ points.T - 0.5 * squares) / variance
    highest = height.amax(-1, keepdim=True)
    matches = (height - highest).exp()
    sums = matches @ torch.cat([points, squares.unsqueeze(-1), torch.ones_like(points[:, :1])], -1)
    sums, total = sums[..., :-1] / sums[..., -1:], sums[..., -1]
    log_density = (
        highest.squeeze(-1)
        + total.log()
        - 0.5 * own.square().sum(-1) / variance
        - math.log(len(points))
        - 1.5 * (2 * math.pi * variance).log()
        - 3 * poses.scale.log().unsqueeze(-1)
    )
    log_object = log_density + math.log1p(-outlier_probability)
    log_both = torch.logaddexp(log_object, math.log(outlier_probability) - volume.log())
    return (log_object - log_both).exp(), sums[..., :3], sums[..., 3], log_both.sum(-1)


def weighted_alignment(
    shares: Tensor, matched: Tensor, spread: Tensor, scan: Tensor, poses: Poses, *, fit_scale: bool
) -> Poses:
    """The poses of least squared distance between a scan and what it is matched with, in closed form.

    Umeyama, Least-squares estimation of transformation parameters between two point patterns, PAMI 1991.

    Args:
        shares: weights of the points of the scan, shape `(S, N)`.
        matched: means of the points of the object that they are matched with, shape `(S, N, 3)`.
        spread: means of the squared lengths of these, shape `(S, N)`.
        scan: shape `(N, 3)`.
        poses: whose scale is kept, unless it is fitted.
        fit_scale: whether it is.
    """
    total = shares.sum(-1, keepdim=True).clamp(min=1e-6)
    weights = (shares / total).unsqueeze(-1)
    mean_scan = (weights * scan).sum(-2)
    mean_matched = (weights * matched).sum(-2)
    away = scan - mean_scan.unsqueeze(-2)
    covariance = (weights * away).mT @ (matched - mean_matched.unsqueeze(-2))
    left, values, right = torch.linalg.svd(covariance)
    # No mirror images: the least of the singular values turns its sign.
    sign = torch.ones_like(values)
    sign[..., -1] = torch.linalg.det(left @ right).sign()
    rotation = (left * sign.unsqueeze(-2)) @ right
    scale = poses.scale
    if fit_scale:
        variance = (weights.squeeze(-1) * spread).sum(-1) - mean_matched.square().sum(-1)
        scale = (values * sign).sum(-1) / variance.clamp(min=torch.finfo(variance.dtype).tiny)
        scale = torch.where(scale > 0, scale, poses.scale)
    turned = (rotation @ mean_matched.unsqueeze(-1)).squeeze(-1)
    return Poses(rotation, mean_scan - scale.unsqueeze(-1) * turned, scale)


def _best(poses: Poses, log_likelihood: Tensor, level: _Level, radius: Tensor) -> Tensor:
    """Rows of the best poses that have no better one within the blur, from the best on."""
    order = log_likelihood.argsort(descending=True)
    ordered = poses[order]
    angle = rotation_vector(ordered.rotation.mT.unsqueeze(1) @ ordered.rotation).norm(dim=-1)
    shift = (ordered.center.unsqueeze(1) - ordered.center).norm(dim=-1) / (radius * ordered.scale)
    near = (angle < level.blur) & (shift < level.blur)
    has_better = near.tril(-1).any(-1)
    return order[~has_better][: level.kept]
