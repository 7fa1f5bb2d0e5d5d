"""The posterior over poses of a known object in the tangent space of some poses: its height, maxima and curvature."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, TransformedDistribution

from pyro_pcflow.distributions import PointMixture, with_background
from pyro_pcflow.infer.pose_search import Poses
from pyro_pcflow.transforms import Similarity, rotation_from_vector, rotation_vector

__all__ = ["PosePosterior", "PosePrior"]

# The shares of a step of which the best is taken; the last leaves a pose where it is.
SHARES = (1.0, 0.5, 0.2, 0.05, 0.0)
# Steps end where none of them rises by so many nats.
SETTLED = 1e-3
# Distances between the gradients of which a curvature is the difference, in standard deviations.
DIFFERENCE = 0.5
# Least precision in units of what the scores of points say. Flat directions are bounded by the prior.
LEAST_CURVATURE = 0.05
# Precisions that keep steps of unknown directions short: of the angle of a uniform rotation about an axis, of the
# centre per squared extent of the scan, and of the logarithm of the scale and the logit of the outlier probability.
ANGLE_PRECISION, CENTER_PRECISION, OTHER_PRECISION = 3 / math.pi**2, 1.0, 0.5


@dataclass(frozen=True, eq=False)
class PosePrior:
    """What is known of a pose beforehand; None where nothing is.

    Attributes:
        around: rotation that is the most likely, shape `(3, 3)`, with `spread`.
        spread: of the rotation's angle about each axis, in radians; every rotation is equally likely without it.
        translation: over the place of the object's origin; without it, its centre is normal about the middle of the
            scan with the scan's extent as standard deviation.
        scale: over positive numbers; 1 without it.
        outlier_probability: over (0, 1); no outliers without it.
    """

    around: Tensor | None = None
    spread: float | None = None
    translation: Distribution | None = None
    scale: Distribution | None = None
    outlier_probability: Distribution | None = None


@dataclass(frozen=True, eq=False)
class PosePosterior:
    """The posterior in coordinates around `M` poses, in which it is sampled by `sample_hmc`, as a `Target`.

    A vector of coordinates holds a rotation vector, in the object's own axes: the rotation is that of the pose, after
    a turn about this vector; the shift of the object's centre; the logarithm of the factor of the scale, if there is a
    prior for it; and the change of the outlier probability's logit, likewise. Densities are those of coordinates, with
    the uniform measure over rotations.

    Attributes:
        density: of points of the object in its own frame.
        scan: shape `(N, 3)`, counted from `origin`.
        origin: in the data's units, shape `(3,)`; zero where a sensor needs to know places.
        middle: of the object, shape `(3,)`.
        prior: of the pose.
        observe: from the density of the posed object to that of observed points; None if they are the same.
        temper: exponent of the likelihood.
        poses: shape `(M, ...)`.
        logit: of the outlier probability there, shape `(M,)`.
    """

    density: Distribution
    scan: Tensor
    origin: Tensor
    middle: Tensor
    prior: PosePrior
    observe: Callable[[Distribution], Distribution] | None
    temper: float
    poses: Poses
    logit: Tensor

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return 6 + (self.prior.scale is not None) + (self.prior.outlier_probability is not None)

    def __getitem__(self, rows: Tensor) -> PosePosterior:
        return replace(self, poses=self.poses[rows], logit=self.logit[rows])

    def place(self, coordinates: Tensor) -> tuple[Poses, Tensor]:
        """The poses, and logits of outlier probabilities, of coordinates of shape `(*batch, M, L)`."""
        turn, shift, rest = coordinates.split([3, 3, self.size - 6], -1)
        rotation = self.poses.rotation @ rotation_from_vector(turn)
        scale = self.poses.scale.expand(turn.shape[:-1])
        if self.prior.scale is not None:
            scale = scale * rest[..., 0].exp()
        logit = self.logit.expand(turn.shape[:-1])
        if self.prior.outlier_probability is not None:
            logit = logit + rest[..., -1]
        return Poses(rotation, self.poses.center + shift, scale), logit

    def moved(self, coordinates: Tensor) -> PosePosterior:
        """The same posterior around other poses, whose coordinates, shape `(M, L)`, are zero from there on."""
        poses, logit = self.place(coordinates)
        return replace(self, poses=poses, logit=logit)

    def translation(self, poses: Poses) -> Tensor:
        """Where the object's own origin lies, counted from the scan's, shape `(*batch, M, 3)`."""
        turned = (poses.rotation @ self.middle.unsqueeze(-1)).squeeze(-1)
        return poses.center - poses.scale.unsqueeze(-1) * turned

    def __call__(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """The log-density, up to a constant, and the log-likelihood, shape `(*batch, M)` each."""
        poses, logit = self.place(coordinates)
        point = self.point(poses, logit)
        scan = self.scan.reshape(len(self.scan), *(1,) * (coordinates.dim() - 1), 3)
        log_likelihood = point.log_prob(scan).sum(0)
        turn = coordinates[..., :3].square().sum(-1)
        # The uniform measure over rotations has this density in rotation vectors (Chirikjian, Stochastic models,
        # information theory, and Lie groups, volume 2, 2011); those of up to two turns stand for each of them twice.
        half = 0.5 * (turn + torch.finfo(turn.dtype).eps).sqrt()
        log_measure = torch.where(half < math.pi, 2 * torch.sinc(half / math.pi).abs().log(), -torch.inf)
        log_prior = log_measure + self._log_prior(poses, logit)
        return log_prior + self.temper * log_likelihood, log_likelihood

    def of_object(self, poses: Poses, *, observed: bool = True) -> Distribution:
        """The density of a point of the object that was recorded, with the batch shape of the poses."""
        pose = Similarity(poses.rotation, self.translation(poses), poses.scale)
        point = TransformedDistribution(self.density, [pose])
        return point if self.observe is None or not observed else self.observe(point)

    def point(self, poses: Poses, logit: Tensor, *, observed: bool = True) -> Distribution:
        """The density of a point of the scan, with the batch shape of the poses."""
        point = self.of_object(poses, observed=observed)
        if self.prior.outlier_probability is None:
            return point
        low, high = self.scan.amin(0), self.scan.amax(0)
        # A float has no number between 1 and the next one below, nor needs it.
        return with_background(point, logit.sigmoid().clamp(1e-6, 1 - 1e-6), low, high)

    def outliers(self, coordinates: Tensor) -> Tensor:
        """The mean probability of each point of the scan to be an outlier, shape `(N,)`, over `(K, M, L)`."""
        if self.prior.outlier_probability is None:
            return torch.zeros_like(self.scan[:, 0])
        point = self.point(*self.place(coordinates))
        assert isinstance(point, PointMixture)
        return point.responsibilities(self.scan[:, None, None])[..., 1].mean((1, 2))

    def _log_prior(self, poses: Poses, logit: Tensor) -> Tensor:
        prior = self.prior
        total = torch.zeros_like(logit)
        if prior.spread is not None and prior.around is not None:
            away = rotation_vector(prior.around.mT @ poses.rotation).square().sum(-1)
            total = total - 0.5 * away / prior.spread**2
        if prior.translation is not None:
            place = self.translation(poses).to(self.origin) + self.origin
            total = total + prior.translation.log_prob(place).to(total)
        else:
            low, high = self.scan.amin(0), self.scan.amax(0)
            around = dist.Normal((low + high) / 2, (high - low).max())
            total = total + around.log_prob(poses.center).sum(-1)
        if prior.scale is not None:
            total = total + (prior.scale.log_prob(poses.scale) + poses.scale.log()).to(total)
        if prior.outlier_probability is not None:
            share = logit.sigmoid().clamp(1e-6, 1 - 1e-6)
            log_det = torch.nn.functional.logsigmoid(logit) + torch.nn.functional.logsigmoid(-logit)
            total = total + prior.outlier_probability.log_prob(share).to(total) + log_det
        return total

    def height(self) -> Tensor:
        """The log-density at the poses, shape `(M,)`."""
        with torch.no_grad():
            return self(self._zero)[0]

    def climbed(self, steps: int) -> PosePosterior:
        """The posterior around poses that are nearer to maxima.

        A step is that of Fisher scoring, with the sum of squares of the points' scores as the information (Berndt,
        Hall, Hall and Hausman, Estimation and inference in nonlinear structural models, Annals of Economic and Social
        Measurement 1974). Of several shares of a step, the best is taken.
        """
        here = self
        for _ in range(steps):
            gradient = here._gradient(here._zero)
            root = here._root()
            move = root @ (root.mT @ gradient.unsqueeze(-1))
            shares = move.new_tensor(SHARES)[:, None, None]
            tried = shares * move.squeeze(-1)
            with torch.no_grad():
                heights = here(tried)[0].nan_to_num(nan=-torch.inf)
            best = heights.argmax(0)
            here = here.moved(tried[best, torch.arange(len(best), device=best.device)])
            if bool((heights.amax(0) - heights[-1] < SETTLED).all()):
                break
        return here

    def laplace(self) -> tuple[Tensor, Tensor]:
        """The normals that have the height and the curvature of the posterior at its maxima.

        Curvatures are differences of gradients at half a standard deviation, which are those of the bulk, and not
        those of the last digit (Tierney and Kadane, Accurate approximations for posterior moments and marginal
        densities, JASA 1986).

        Returns:
            Roots of the covariances, shape `(M, L, L)`, and logarithms of the integrals, up to a constant, `(M,)`.
        """
        root = self._root()
        rows = []
        for axis in root.unbind(-1):
            change = self._gradient(-DIFFERENCE * axis) - self._gradient(DIFFERENCE * axis)
            rows.append((root.mT @ change.unsqueeze(-1)).squeeze(-1) / (2 * DIFFERENCE))
        curvature = torch.stack(rows, -2)
        values, vectors = torch.linalg.eigh(0.5 * (curvature + curvature.mT).double())
        values = values.clamp(min=LEAST_CURVATURE)
        root = (root.double() @ vectors * values.rsqrt().unsqueeze(-2)).to(root)
        log_volume = torch.linalg.slogdet(root.double())[1]
        return root, (self.height() + 0.5 * self.size * math.log(2 * math.pi) + log_volume).to(root)

    def coordinates_of(self, other: PosePosterior) -> Tensor:
        """The coordinates of `K` poses of another one around each of the `M` poses, shape `(K, M, L)`."""
        there = other.poses
        parts = [
            rotation_vector(self.poses.rotation.mT @ there.rotation.unsqueeze(1)),
            there.center.unsqueeze(1) - self.poses.center,
        ]
        if self.prior.scale is not None:
            parts.append((there.scale.unsqueeze(1) / self.poses.scale).log().unsqueeze(-1))
        if self.prior.outlier_probability is not None:
            parts.append((other.logit.unsqueeze(1) - self.logit).unsqueeze(-1))
        return torch.cat(parts, -1)

    @property
    def _zero(self) -> Tensor:
        return self.logit.new_zeros(len(self.logit), self.size)

    def _gradient(self, coordinates: Tensor) -> Tensor:
        at = coordinates.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self(at)[0].sum(), at)
        return gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)

    def _prior_information(self) -> Tensor:
        """Minus the curvature of the logarithm of the prior where it is concave, shape `(M, L, L)`."""
        at = self._zero.requires_grad_()
        with torch.enable_grad():
            # The zeros let a flat prior have a slope, too.
            log_prior = self._log_prior(*self.place(at)).sum() + 0 * at.square().sum()
            (slope,) = torch.autograd.grad(log_prior, at, create_graph=True)
            rows = [torch.autograd.grad(part.sum(), at, retain_graph=True)[0] for part in slope.unbind(-1)]
        values, vectors = torch.linalg.eigh(-torch.stack(rows, -2).nan_to_num(0.0, 0.0, 0.0).double())
        return (vectors * values.clamp(min=0).unsqueeze(-2)) @ vectors.mT

    def _root(self) -> Tensor:
        """Root of the inverse of the information of the points, one by one, with weak bounds; shape `(M, L, L)`."""
        at = self.logit.new_zeros(len(self.scan), len(self.logit), self.size).requires_grad_()
        with torch.enable_grad():
            # A pose of its own for each point has the gradient of its own score.
            log_prob = self.point(*self.place(at), observed=False).log_prob(self.scan.unsqueeze(1))
            (scores,) = torch.autograd.grad(log_prob.sum(), at)
        scores = scores.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).double()
        extent = float((self.scan.amax(0) - self.scan.amin(0)).max())
        least = [ANGLE_PRECISION] * 3 + [CENTER_PRECISION / extent**2] * 3 + [OTHER_PRECISION] * (self.size - 6)
        information = self.temper * torch.einsum("nmi,nmj->mij", scores, scores) + self._prior_information()
        information = information + torch.diag(scores.new_tensor(least))
        # Reversed in order, the root of the precision is the inverse of a root of the covariance.
        inverse = torch.linalg.cholesky(information)
        identity = torch.eye(self.size, dtype=inverse.dtype, device=inverse.device)
        return torch.linalg.solve_triangular(inverse, identity, upper=False).mT.to(self.logit)
