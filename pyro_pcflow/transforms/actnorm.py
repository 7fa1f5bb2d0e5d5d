"""Activation normalization (ActNorm): a scale and a shift per coordinate, set from the first data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pyro_pcflow.ops.coupling import tanh_bound
from pyro_pcflow.ops.tracing import in_function_transform
from pyro_pcflow.transforms.base import PointTransform
from pyro_pcflow.transforms.checks import check_point_shape

__all__ = ["ActNorm", "act_norm"]


class ActNorm(PointTransform):
    """Activation normalization: an affine map per coordinate that carries the first data to mean 0 and variance 1.

    Kingma and Dhariwal, Glow, NeurIPS 2018, section 3.1. From noise to data `y = x * exp(log_scale) + loc`. The
    first batch that is inverted sets both, in train and in eval mode alike, so that no density ever depends on the
    mode, unless training by samples, as of a guide, has moved them before; from then on they are ordinary parameters.
    That it happened is part of the state: a loaded transform is not initialised again. Under `torch.compile` and
    function transforms, call `initialize` beforehand.

    Args:
        point_dim: number of coordinates `D`.
        max_log_scale: smooth bound of the log-scale; standard deviations outside `exp(+-max_log_scale)` are
            normalised only up to the bound.

    Examples:
        >>> norm = ActNorm(3)
        >>> noise = norm.inv(5 + 2 * torch.randn(1000, 3))
        >>> bool(noise.mean().abs() < 1e-4)
        True
    """

    @property
    def is_affine(self) -> bool:
        """True: it carries a Gaussian to a Gaussian."""
        return True

    def __init__(self, point_dim: int, *, max_log_scale: float = 8.0) -> None:
        super().__init__(point_dim)
        if point_dim < 1:
            raise ValueError(f"point_dim must be at least 1, got {point_dim}")
        self.max_log_scale = max_log_scale
        self.loc = nn.Parameter(torch.zeros(point_dim))
        self.raw_log_scale = nn.Parameter(torch.zeros(point_dim))
        # A Python value, so that neither a device has to be asked nor a compiled graph broken at each call.
        self.initialized = False

    @property
    def config(self) -> dict[str, Any]:
        """The arguments of the constructor, see `pyro_pcflow.save`."""
        return {"point_dim": self.point_dim, "max_log_scale": self.max_log_scale}

    @torch.no_grad()
    def initialize(self, data: Tensor) -> None:
        """Set scale and shift so that the inverse carries `data` to mean 0 and variance 1.

        Args:
            data: at least two points, shape `(*batch, D)`.

        Raises:
            ValueError: for fewer than two points, or points that are not finite.
        """
        check_point_shape(data.shape, self.point_dim)
        points = data.detach().reshape(-1, self.point_dim).to(self.loc)
        if len(points) < 2 or not bool(points.isfinite().all()):
            raise ValueError(
                f"ActNorm takes its scale from data: expected at least 2 finite points, got {len(points)} of "
                f"which {int(points.isfinite().all(-1).sum())} are finite"
            )
        smallest = torch.finfo(points.dtype).tiny
        log_scale = points.std(0, correction=0).clamp_min(smallest).log()
        ratio = (log_scale / self.max_log_scale).clamp(-0.99, 0.99)
        self.loc.copy_(points.mean(0))
        self.raw_log_scale.copy_(self.max_log_scale * torch.atanh(ratio))
        self.initialized = True

    @property
    def log_scale(self) -> Tensor:
        """The bounded log-scale, shape `(D,)`."""
        return tanh_bound(self.raw_log_scale, self.max_log_scale)

    def transform_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = self.log_scale
        return torch.addcmul(self.loc, x, log_scale.exp()), log_scale.sum().expand(x.shape[:-1])

    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        if not self.initialized:
            self._initialize_from_first(y)
        log_scale = self.log_scale
        return (y - self.loc) * torch.exp(-log_scale), -log_scale.sum().expand(y.shape[:-1])

    def _initialize_from_first(self, y: Tensor) -> None:
        if torch.compiler.is_compiling() or in_function_transform():
            raise RuntimeError(
                "an ActNorm takes its scale from the first data, which it cannot do inside torch.compile or "
                "torch.func: call initialize(data), or score one batch, before compiling"
            )
        if bool(self.loc.any()) or bool(self.raw_log_scale.any()):
            # Trained by its samples alone, as in a guide: these are weights, which no data may overwrite.
            self.initialized = True
        else:
            self.initialize(y)

    def get_extra_state(self) -> dict[str, Any]:
        return {"initialized": self.initialized}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.initialized = bool(state["initialized"])

    def extra_repr(self) -> str:
        return f"{self.point_dim}, initialized={self.initialized}"


def act_norm(point_dim: int, *, max_log_scale: float = 8.0) -> ActNorm:
    """Make an `ActNorm`.

    Args:
        point_dim: number of coordinates `D`.
        max_log_scale: smooth bound of the log-scale.

    Examples:
        >>> norm = act_norm(3)
        >>> noise = norm.inv(5 + 2 * torch.randn(1000, 3))
        >>> bool(noise.mean().abs() < 1e-4), bool((noise.std(0) - 1).abs().max() < 1e-3)
        (True, True)
    """
    return ActNorm(point_dim, max_log_scale=max_log_scale)
