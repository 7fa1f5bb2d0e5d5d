"""A rival: a mixture of full Gaussians by expectation maximisation, as scikit-learn has it."""

from __future__ import annotations

import time
import warnings

import torch
from torch import Tensor

from benchmarks.common.meshes import Shape
from benchmarks.rivals.fitted import Fitted


class EMMixture:
    """A mixture of Gaussians with full covariances, started by k-means.

    It stops where an iteration raises the mean log-likelihood by less than 1e-4 nats, or where its time is over; the
    k-means and the first iteration are not interrupted.

    Args:
        points: training points, shape ``(M, D)``.
        components: number of Gaussians.
        noise: standard deviation of the noise that thickens the points: its square is added to each variance.
        seconds: time.
        seed: decides where k-means starts.
    """

    def __init__(self, points: Tensor, components: int, noise: float, seconds: float, seed: int = 0) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        end = time.perf_counter() + seconds
        self.estimate = GaussianMixture(
            components, tol=1e-4, reg_covar=noise**2, max_iter=1, warm_start=True, random_state=seed
        )
        data = points.double().numpy()
        self.iterations, self.converged, each = 0, False, 0.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            while not self.converged:
                start = time.perf_counter()
                self.estimate.fit(data)
                self.iterations += self.estimate.n_iter_
                self.converged = self.estimate.converged_
                # A call ends with one more expectation step.
                each = (time.perf_counter() - start) / (self.estimate.n_iter_ + 1)
                left = int((end - time.perf_counter()) / each) - 1
                if left < 1:
                    break
                self.estimate.set_params(max_iter=left)

    @property
    def stored(self) -> int:
        """Numbers of the weights, the centres and the triangles of the covariances."""
        count, dim = self.estimate.means_.shape
        return count * (1 + dim + dim * (dim + 1) // 2)

    def log_prob(self, points: Tensor) -> Tensor:
        """Log-density in nats, shape ``(N,)`` of ``(N, D)``."""
        return torch.from_numpy(self.estimate.score_samples(points.double().numpy()))


def fit_em_mixture(
    shape: Shape, seconds: float, seed: int, *, components: int, noise: float, points: int | None = None
) -> Fitted:
    """A mixture of some of a shape's points: of more than it can visit often enough in its time, it is worse."""
    density = EMMixture(shape.train[:points], components, noise, seconds, seed)
    return Fitted(density, density.stored, density.iterations)
