"""A rival: a kernel density estimate, whose only choice is the width of its kernels."""

from __future__ import annotations

import math

import torch
from scipy.optimize import minimize_scalar
from scipy.spatial import cKDTree
from torch import Tensor

from benchmarks.common.meshes import Shape
from benchmarks.rivals.fitted import Fitted


class KernelDensity:
    """The mean of round Gaussians around training points, by scikit-learn's tree.

    Args:
        points: training points, shape ``(M, D)``.
        width: standard deviation of each Gaussian, in the data's units.
    """

    def __init__(self, points: Tensor, width: float) -> None:
        from sklearn.neighbors import KernelDensity as Estimate

        # A relative error of 1e-4 of a density is none of its logarithm, and some 100 times faster.
        self.estimate = Estimate(bandwidth=width, rtol=1e-4).fit(points.double().numpy())
        self.width = width

    def log_prob(self, points: Tensor) -> Tensor:
        """Log-density in nats, shape ``(N,)`` of ``(N, D)``."""
        return torch.from_numpy(self.estimate.score_samples(points.double().numpy()))


def best_width(train: Tensor, chosen_on: Tensor) -> tuple[KernelDensity, int]:
    """The estimate of the width under which points are most likely, to 1%, and how many widths were tried.

    Args:
        train: centres of the kernels, shape ``(M, D)``.
        chosen_on: points that are scored, shape ``(N, D)``.
    """
    spacing = float(cKDTree(train.numpy()).query(train[:2000].numpy(), k=2)[0][:, 1].mean())

    def loss(log_width: float) -> float:
        return -float(KernelDensity(train, math.exp(log_width)).log_prob(chosen_on).mean())

    bounds = (math.log(spacing / 3), math.log(spacing * 10))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 0.01})
    return KernelDensity(train, math.exp(found.x)), found.nfev


def fit_kernel_density(shape: Shape, seconds: float, seed: int, *, chosen_on: str = "validation") -> Fitted:
    """The best width by the points of `validation`, or by those of `test`, which no user could do.

    It takes as long as it takes: more seconds do not help, and the seed changes nothing.
    """
    density, trials = best_width(shape.train, getattr(shape, chosen_on))
    return Fitted(density, shape.train.numel() + 1, trials)
