"""Registration: the pose of a known object in a scan, as a posterior."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pyro.distributions as dist
import torch
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor
from torch.distributions import Distribution

from pyro_pcflow.distributions import MixtureOfFlows, PointCloudFlow
from pyro_pcflow.distributions.gaussian_mixture import with_gaussians
from pyro_pcflow.infer.checks import RegistrationCheck, check_poses
from pyro_pcflow.infer.hmc import sample_hmc
from pyro_pcflow.infer.noise_space import without_validation
from pyro_pcflow.infer.pose_posterior import PosePosterior, PosePrior
from pyro_pcflow.infer.pose_search import Poses, search_poses
from pyro_pcflow.ops.origin import narrowed
from pyro_pcflow.ops.random import seeded
from pyro_pcflow.transforms import rotation_from_vector, rotation_matrix

__all__ = ["PoseModes", "Registration", "register"]

METHODS = ("laplace", "hmc")
# Points of the object that the search compares with the scan, and the fewest points that have a pose.
OBJECT_POINTS, FEWEST_POINTS = 1024, 4
CONCENTRATIONS = 1.0, 10.0
FEW_OUTLIERS = dist.Beta(*CONCENTRATIONS)
# The uniform background of the search: the mean of the prior, within these bounds.
SEARCHED_OUTLIERS = (0.02, 0.5)
# Where starts lie about the middle of the scan, per deviation of its coordinates.
START_SHIFT = 0.25
# Candidates that are climbed from: those whose log-density, per point of the scan, is not so far below the best; by how
# many steps, before and after they are compared under the object's own density.
FAR_BELOW, FIRST_STEPS, LAST_STEPS = 0.3, 6, 15
# Squared distance, in standard deviations, within which two maxima are one mode: a chi-square of 8 degrees of freedom
# exceeds it with a probability of 1e-4. Modes of less than the least weight are dropped.
ONE_MODE, LEAST_WEIGHT = 30.0, 1e-4
# Nats below the best from which the width of a mode cannot make up for its height.
NEGLIGIBLE = 40.0
NUM_CHAINS, NUM_STEPS, WARMUP_STEPS, NUM_LEAPFROGS = 8, 40, 20, 4
# Draws that probabilities of outliers are the mean over, and those that a scan is compared with.
OUTLIER_DRAWS, CHECKED = 16, 8


@dataclass(frozen=True, eq=False)
class PoseModes:
    """The distinct maxima of a posterior over poses, the likeliest first: `x = scale * rotation @ y + translation`.

    Attributes:
        weight: posterior probabilities, which sum to 1, by Laplace's approximation of the integral around each, shape
            `(M,)`.
        rotation: shape `(M, 3, 3)`.
        translation: in the data's units, shape `(M, 3)`.
        scale: shape `(M,)`.
        covariance: around each mode, of a rotation vector about the object's own axes, in radians, after which the
            object is turned by `rotation`, and of the translation, in the data's units; shape `(M, 6, 6)`.
        log_density: up to a constant, in nats, shape `(M,)`.
    """

    weight: Tensor
    rotation: Tensor
    translation: Tensor
    scale: Tensor
    covariance: Tensor
    log_density: Tensor

    @property
    def matrices(self) -> Tensor:
        """Homogeneous matrices from the object's frame to the scan's, shape `(M, 4, 4)`."""
        return homogeneous(self.rotation, self.translation, self.scale)


@dataclass(frozen=True, eq=False)
class Registration:
    """The posterior over poses of an object in a scan: a point `y` of it lies at `scale * rotation @ y + translation`.

    Attributes:
        rotation: draws, shape `(K, 3, 3)`.
        translation: draws, in the data's units, shape `(K, 3)`.
        scale: draws, shape `(K,)`; 1 without a prior.
        mode: number of the mode that each draw belongs to, shape `(K,)`.
        modes: the distinct poses, of which a symmetric object has several.
        outlier_probability: of each point of the scan, shape `(N,)`: the posterior probability that it does not belong
            to the object.
        outlier_share: draws of the share of outliers in general, shape `(K,)`; 0 without a prior.
        method: how they were drawn.
        diagnostics: `num_starts`, how many poses the search began with; for `"hmc"` and each
            mode `r_hat`, split, and `n_eff`, shape `(M, L)`, of the rotation vector, the translation, the logarithm of
            the scale and the logit of the share of outliers; `acceptance` and `step_size`, shape `(M,)`.
        checked: what `check` returns; None if `register` was told not to check.
    """

    rotation: Tensor
    translation: Tensor
    scale: Tensor
    mode: Tensor
    modes: PoseModes
    outlier_probability: Tensor
    outlier_share: Tensor
    method: str
    diagnostics: dict[str, Any]
    checked: RegistrationCheck | None = None

    def check(self) -> RegistrationCheck:
        """What speaks against the result; true if nothing does.

        Raises:
            ValueError: if `register` was told not to check.
        """
        if self.checked is None:
            raise ValueError("this registration was made with check=False, and what it would be compared with is gone")
        return self.checked

    @property
    def matrices(self) -> Tensor:
        """The draws as homogeneous matrices from the object's frame to the scan's, shape `(K, 4, 4)`."""
        return homogeneous(self.rotation, self.translation, self.scale)

    @property
    def matrix(self) -> Tensor:
        """That of the likeliest mode, shape `(4, 4)`."""
        return self.modes.matrices[0]

    @property
    def covariance(self) -> Tensor:
        """That of the likeliest mode, shape `(6, 6)`, see `PoseModes`."""
        return self.modes.covariance[0]


def homogeneous(rotation: Tensor, translation: Tensor, scale: Tensor) -> Tensor:
    """Matrices of shape `(*batch, 4, 4)` that carry points `(x, y, z, 1)`."""
    rows = torch.cat([(scale[..., None, None] * rotation).to(translation), translation.unsqueeze(-1)], -1)
    last = rows.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*rows.shape[:-2], 1, 4)
    return torch.cat([rows, last], -2)


def register(
    flow: PointCloudFlow | MixtureOfFlows | Distribution,
    scan: Tensor,
    *,
    around: Tensor | None = None,
    spread: float | None = None,
    translation: Distribution | None = None,
    scale: Distribution | None = None,
    outlier_probability: Distribution | None = FEW_OUTLIERS,
    observe: Callable[[Distribution], Distribution] | None = None,
    method: str = "laplace",
    temper: float = 1.0,
    num_samples: int = 200,
    num_starts: int = 512,
    check: bool = True,
) -> Registration:
    """Find the pose of a known object in a scan, with all that is uncertain about it (point set registration).

    The points of the scan are modelled as independent draws from the flow, in the pose, and from a uniform background
    over the bounding box of the scan, see `with_background`. Many rotations are led uphill at once, first in a mixture
    of Gaussians around points of the object that is blurred less and less, see `search_poses`, and the best of them in
    the flow's own density. The posterior is then approximated around every maximum:

    | method | draws |
    | --- | --- |
    | `"laplace"` | of the normal that has the height and the curvature of the posterior at the maximum |
    | `"hmc"` | of 8 chains of Hamiltonian Monte Carlo around each, from draws of that normal; exact in the limit |

    A symmetric object has several poses that explain a scan alike, see `Registration.modes`; draws are shared out by
    their weights. Random numbers come from torch's global generator. Weights of a flow that needs no gradients,
    `flow.requires_grad_(False)`, make it faster.

    Args:
        flow: the object: an unconditional flow over points of 3 coordinates, or any point distribution with
            `event_shape (3,)` and no batch shape, such as `flow.condition(context)`.
        scan: shape `(N, 3)`, in the flow's units unless there is a prior for the scale.
        around: quaternion that rotations are near, as in `sample_pose`, shape `(4,)`; the identity by default. It
            needs `spread`.
        spread: standard deviation of the rotation's angle about each axis, in radians: the prior density falls as
            `exp(-angle**2 / (2 * spread**2))`, with the angle from `around`. By default every rotation is equally
            likely.
        translation: prior over the place of the object's origin, with `event_shape (3,)`, in the data's units. By
            default the object's centre is normal about the middle of the scan's bounding box, with its longest side as
            standard deviation.
        scale: prior over positive numbers, such as `LogNormal(0, 0.1)`; by default the object has its own size.
        outlier_probability: prior over the share of outliers in (0, 1), by default `Beta(1, 10)`; None if every point
            is of the object.
        observe: from the density of the posed object to that of its observed points, for example
            `lambda point: one_sided(point, direction)`, see `complete`; by default they are the same.
        method: see above.
        temper: exponent of the likelihood, 1 for Bayes' rule, less for a flow that is not quite that of the scan, see
            `complete`.
        num_samples: number of draws `K`.
        num_starts: rotations that the search begins with.
        check: whether to compare the scan with what the object would have made of it, and to warn.

    Returns:
        The posterior.

    Raises:
        TypeError: if the flow has a context, or is no point distribution.
        ValueError: if shapes do not fit, the scan is not finite or has fewer than 4 points, or an option is unknown.

    Examples:
        >>> import pyro
        >>> pyro.set_rng_seed(0)
        >>> thing = dist.Normal(torch.zeros(3), torch.tensor([0.2, 0.5, 1.0])).to_event(1)
        >>> found = register(thing, thing.sample((200,)) + torch.tensor([5.0, 0.0, 0.0]), num_samples=50)
        >>> found.rotation.shape, found.translation.mean(0).round().tolist()
        (torch.Size([50, 3, 3]), [5.0, 0.0, 0.0])
        >>> len(found.modes.weight)  # half turns about its three axes leave it as it is
        4
    """
    density = _object(flow)
    _check_scan(scan)
    prior = _checked_prior(around, spread, translation, scale, outlier_probability)
    _check_options(method, temper, num_samples, num_starts)
    with torch.no_grad(), without_validation():
        points = density.sample(torch.Size((OBJECT_POINTS,)))
        # Places matter to a sensor; without one, digits of coordinates that are far away are kept by moving the scan.
        scan = scan.detach().to(points.device)
        origin = torch.zeros_like(scan[0]) if observe is not None else scan.median(0).values
        near = narrowed(scan - origin, points.dtype, "scan")
        middle = points.mean(0)
        prior = _moved_prior(prior, near)
        poses = _starts(prior, near, num_starts)
        low, high = SEARCHED_OUTLIERS
        share = 0.0 if outlier_probability is None else float(outlier_probability.mean)
        poses = search_poses(
            points - middle, near, poses, min(max(share, low), high), fit_scale=prior.scale is not None
        )
        logit = near.new_full((len(poses.scale),), math.log(max(share, low) / (1 - min(max(share, low), high))))
        posterior = PosePosterior(density, near, origin, middle, prior, observe, temper, poses, logit)
        posterior, root, weight = _maxima(posterior)
        found, seen = _result(posterior, root, weight, method, num_samples, num_starts)
        if check:
            r_hat = found.diagnostics["r_hat"][0] if method == "hmc" else None
            # What is drawn after it is the same with and without.
            with seeded(0, posterior.scan.device):
                found = replace(found, checked=check_poses(seen, posterior.scan, found.outlier_probability, r_hat))
    if found.checked is not None:
        found.checked.warn()
    return found


def _object(flow: Any) -> Distribution:
    if isinstance(flow, PointCloudFlow | MixtureOfFlows):
        if flow.context_dim:
            raise TypeError(
                f"the flow has a context of {flow.context_dim} numbers, so it is no one object: give "
                "flow.condition(context)"
            )
        flow = flow.condition()
    if not isinstance(flow, Distribution):
        raise TypeError(f"expected a flow or a distribution of points, got {type(flow).__name__}")
    if flow.event_shape != (3,) or flow.batch_shape != ():
        raise ValueError(
            "expected one density of points with event_shape (3,) and no batch shape, got event_shape "
            f"{tuple(flow.event_shape)} and batch_shape {tuple(flow.batch_shape)}"
        )
    with torch.no_grad():
        return with_gaussians(flow)


def _check_scan(scan: Tensor) -> None:
    if not isinstance(scan, Tensor) or scan.dim() != 2 or scan.shape[-1] != 3 or len(scan) < FEWEST_POINTS:
        got = f"shape {tuple(scan.shape)}" if isinstance(scan, Tensor) else type(scan).__name__
        raise ValueError(
            f"expected one scan as a tensor of shape (N, 3) with at least {FEWEST_POINTS} points, got {got}"
        )
    if not scan.isfinite().all():
        raise ValueError(f"{int((~scan.isfinite()).any(-1).sum())} points of the scan are NaN or infinite: drop them")
    if not (scan.amax(0) > scan.amin(0)).all():
        raise ValueError("all points of the scan have one coordinate in common, so that its bounding box is empty")


def _checked_prior(
    around: Tensor | None,
    spread: float | None,
    translation: Distribution | None,
    scale: Distribution | None,
    outlier_probability: Distribution | None,
) -> PosePrior:
    if spread is not None and not spread > 0:
        raise ValueError(f"expected a positive spread in radians, got {spread}")
    if around is not None:
        if spread is None:
            raise ValueError("around is where rotations with a spread lie: give spread, too, or leave around out")
        if not isinstance(around, Tensor) or around.shape != (4,):
            got = f"shape {tuple(around.shape)}" if isinstance(around, Tensor) else type(around).__name__
            raise ValueError(f"expected a quaternion as a tensor of 4 numbers, got {got}")
    if translation is not None and (translation.event_shape != (3,) or translation.batch_shape != ()):
        raise ValueError(
            "expected a prior over translations of event shape (3,) and no batch shape, got event_shape "
            f"{tuple(translation.event_shape)} and batch_shape {tuple(translation.batch_shape)}; .to_event(1) declares "
            "the last dimension an event"
        )
    for name, one in (("scale", scale), ("outlier_probability", outlier_probability)):
        if one is not None and not (isinstance(one, Distribution) and one.event_shape == one.batch_shape == ()):
            raise ValueError(
                f"expected a prior over one {name} as a distribution of no batch or event shape, or None, got {one}"
            )
    if spread is not None:
        around = rotation_matrix(torch.tensor([1.0, 0.0, 0.0, 0.0]) if around is None else around)
    return PosePrior(around, spread, translation, scale, outlier_probability)


def _moved_prior(prior: PosePrior, like: Tensor) -> PosePrior:
    """The same prior where a tensor is: those that users give are there already."""
    around = None if prior.around is None else prior.around.to(like)
    outliers = prior.outlier_probability
    if outliers is FEW_OUTLIERS:
        outliers = dist.Beta(*map(like.new_tensor, CONCENTRATIONS))
    return replace(prior, around=around, outlier_probability=outliers)


def _check_options(method: str, temper: float, num_samples: int, num_starts: int) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if not temper > 0:
        raise ValueError(f"temper must be a positive number, got {temper}")
    if min(num_samples, num_starts) < 1:
        raise ValueError(
            f"expected num_samples and num_starts of at least 1, got num_samples={num_samples}, num_starts={num_starts}"
        )


def _starts(prior: PosePrior, scan: Tensor, num_starts: int) -> Poses:
    """Poses from the prior over rotations and scales, about the middle of the scan."""
    if prior.around is None or prior.spread is None:
        rotation = rotation_matrix(torch.randn(num_starts, 4).to(scan))
    else:
        turns = prior.spread * torch.randn(num_starts, 3).to(scan)
        rotation = prior.around.to(scan) @ rotation_from_vector(turns)
    shift = torch.randn(num_starts, 3).to(scan) * START_SHIFT * scan.std(0)
    scale = scan.new_ones(num_starts)
    if prior.scale is not None:
        scale = prior.scale.sample(torch.Size((num_starts,))).to(scan)
    return Poses(rotation, scan.median(0).values + shift, scale)


def _maxima(posterior: PosePosterior) -> tuple[PosePosterior, Tensor, Tensor]:
    """The distinct maxima, from the likeliest on, roots of the covariances there, and weights."""
    posterior = posterior.climbed(FIRST_STEPS)
    height = posterior.height()
    margin = FAR_BELOW * posterior.temper * len(posterior.scan)
    posterior = posterior[height > height.max() - margin].climbed(LAST_STEPS)
    height = posterior.height()
    order = height.argsort(descending=True)
    posterior = posterior[order[height[order] > height.max() - NEGLIGIBLE]]
    root, log_mass = posterior.laplace()
    away = posterior.coordinates_of(posterior).unsqueeze(-1)  # (K, M, L, 1)
    distance = torch.linalg.solve(root, away).square().sum((-1, -2))
    has_better = (distance < ONE_MODE).tril(-1).any(-1)
    log_mass = log_mass.masked_fill(has_better, -torch.inf)
    weight = log_mass.softmax(0)
    order = weight.argsort(descending=True)
    order = order[weight[order] > LEAST_WEIGHT]
    return posterior[order], root[order], weight[order] / weight[order].sum()


def _result(
    posterior: PosePosterior, root: Tensor, weight: Tensor, method: str, num_samples: int, num_starts: int
) -> tuple[Registration, list[Distribution]]:
    """What was found, and in some draws the density of a recorded point of the object."""
    num_modes, size = root.shape[:2]
    diagnostics: dict[str, Any] = {"num_starts": num_starts}
    if method == "laplace":
        normal = torch.randn(max(num_samples, 1), num_modes, size).to(root)
        pool = (root @ normal.unsqueeze(-1)).squeeze(-1)
    else:
        pool, diagnostics = _chains(posterior, root, num_samples, diagnostics)
    # Shared out in proportion, from one random number.
    edges = weight.cumsum(0) / weight.sum()
    mode = torch.searchsorted(edges, ((torch.arange(num_samples) + torch.rand(1)) / num_samples).to(edges))
    mode = mode.clamp(max=num_modes - 1)
    row = torch.arange(num_samples, device=mode.device) % len(pool)
    coordinates = pool[row, mode]
    drawn, logit = posterior[mode].place(coordinates)
    origin = posterior.origin
    share = logit.sigmoid() if posterior.prior.outlier_probability is not None else torch.zeros_like(logit)
    some = torch.linspace(0, num_samples - 1, min(num_samples, OUTLIER_DRAWS)).round().long().to(mode.device)
    modes = PoseModes(
        weight,
        posterior.poses.rotation,
        posterior.translation(posterior.poses).to(origin) + origin,
        posterior.poses.scale,
        _covariance(posterior, root, pool if method == "hmc" else None),
        posterior.height(),
    )
    found = Registration(
        drawn.rotation,
        posterior.translation(drawn).to(origin) + origin,
        drawn.scale,
        mode,
        modes,
        posterior[mode[some]].outliers(coordinates[some].unsqueeze(0)),
        share,
        method,
        diagnostics,
    )
    rows = torch.linspace(0, num_samples - 1, CHECKED).round().long().to(mode.device)
    return found, [posterior.of_object(drawn[row]) for row in rows]


def _chains(
    posterior: PosePosterior, root: Tensor, num_samples: int, diagnostics: dict[str, Any]
) -> tuple[Tensor, dict[str, Any]]:
    """Draws of chains in the tangent space of each mode, shape `(num_steps * num_chains, M, L)`, shuffled."""
    start = (root @ torch.randn(NUM_CHAINS, *root.shape[:2]).to(root).unsqueeze(-1)).squeeze(-1)
    result = sample_hmc(
        posterior,
        start,
        num_steps=max(NUM_STEPS, math.ceil(num_samples / NUM_CHAINS)),
        warmup_steps=WARMUP_STEPS,
        num_leapfrogs=NUM_LEAPFROGS,
        root=root,
        step_size=0.5,
    )
    diagnostics = diagnostics | {
        "r_hat": split_gelman_rubin(result.noise, chain_dim=1, sample_dim=0),
        "n_eff": effective_sample_size(result.noise, chain_dim=1, sample_dim=0),
        "acceptance": result.acceptance,
        "step_size": result.step_size,
    }
    pool = result.noise.flatten(0, 1)
    return pool[torch.randperm(len(pool), device=pool.device)], diagnostics


def _covariance(posterior: PosePosterior, root: Tensor, draws: Tensor | None) -> Tensor:
    """Of the rotation vector and the translation of the object's own origin, shape `(M, 6, 6)`."""
    covariance = root @ root.mT if draws is None else torch.einsum("kmi,kmj->mij", *2 * [draws - draws.mean(0)])
    if draws is not None:
        covariance = covariance / max(1, len(draws) - 1)

    def placed(coordinates: Tensor) -> Tensor:
        return torch.cat([coordinates[:, :3], posterior.translation(posterior.place(coordinates)[0])], -1)

    # The origin moves with the centre and, where it lies elsewhere, with the rotation and the scale.
    at = root.new_zeros(root.shape[:2]).requires_grad_()
    with torch.enable_grad():
        columns = [torch.autograd.grad(column.sum(), at, retain_graph=True)[0] for column in placed(at).unbind(-1)]
    slope = torch.stack(columns, -2)
    return slope @ covariance @ slope.mT
