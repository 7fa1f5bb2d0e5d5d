"""What a coupling does to one coordinate: elementwise bijections whose parameters a conditioner gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from pyro_pcflow.ops.coupling import affine_map, tanh_bound
from pyro_pcflow.ops.cubic_rational import cubic_rational, cubic_rational_inverse
from pyro_pcflow.ops.rational_quadratic import rational_quadratic, rational_quadratic_inverse

__all__ = [
    "COUPLINGS",
    "Additive",
    "Affine",
    "CubicRational",
    "Elementwise",
    "RationalQuadraticSpline",
    "check_elementwise",
]


class Elementwise:
    """A bijection of single coordinates with parameters for each: the base class of what a coupling does.

    A coupling asks its conditioner for `num_parameters` numbers per moved coordinate, which start at zero, and hands
    them over. Both methods compute a value and the logarithm of its derivative in one pass, by operations that autograd
    can differentiate twice. An object holds options and no weights; many couplings may share it.

    Attributes:
        num_parameters: number `K` of parameters per coordinate, at least 1.
        config: the keyword arguments that make the same object again, plain values, for `pyro_pcflow.save`.

    Examples:
        >>> class Bend(Elementwise):
        ...     num_parameters = 1
        ...
        ...     def forward_and_log_det(self, x, parameters):
        ...         angle = torch.asinh(x) + parameters[..., 0]
        ...         return torch.sinh(angle), torch.log(torch.cosh(angle)) - 0.5 * torch.log1p(x.square())
        ...
        ...     def inverse_and_log_det(self, y, parameters):
        ...         return self.forward_and_log_det(y, -parameters)
        >>> from pyro_pcflow.transforms import coupling_stack
        >>> coupling_stack(3, num_couplings=2, hidden_dims=[8], coupling=Bend())(torch.randn(100, 3)).shape
        torch.Size([100, 3])
    """

    num_parameters: int
    config: Mapping[str, Any] = MappingProxyType({})

    def forward_and_log_det(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Carry noise to data.

        Args:
            x: moved coordinates, shape `(*batch, M)`.
            parameters: shape `(*batch, M, K)`, unbounded.

        Returns:
            The images, and `log |dy/dx|` of each, both of shape `(*batch, M)`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define forward_and_log_det")

    def inverse_and_log_det(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Carry data to noise.

        Args:
            y: moved coordinates, shape `(*batch, M)`.
            parameters: shape `(*batch, M, K)`, unbounded.

        Returns:
            The preimages, and `log |dx/dy|` of each, both of shape `(*batch, M)`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define inverse_and_log_det")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.config.items())})"


class Affine(Elementwise):
    """Scale and shift (RealNVP): from data to noise, with shift `A` and log-scale `M`, `x = y * exp(M) + A`.

    Dinh, Sohl-Dickstein and Bengio, Density estimation using Real NVP, ICLR 2017. The parameters are `A`, and what
    becomes `M` by `max_log_scale * tanh(m / max_log_scale)`.

    Args:
        max_log_scale: smooth bound of the log-scale.

    Raises:
        ValueError: if the bound is not positive and finite.

    Examples:
        >>> y, log_det = Affine().forward_and_log_det(torch.tensor([3.0]), torch.tensor([[1.0, 0.0]]))
        >>> y.tolist(), log_det.tolist()
        ([2.0], [-0.0])
    """

    num_parameters = 2

    def __init__(self, max_log_scale: float = 1.0) -> None:
        if not 0 < max_log_scale < float("inf"):
            raise ValueError(f"max_log_scale must be positive and finite, got {max_log_scale}")
        self.max_log_scale = max_log_scale
        self.config = {"max_log_scale": max_log_scale}

    def forward_and_log_det(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return affine_map(x, *self._shift_and_log_scale(parameters), inverse=False)

    def inverse_and_log_det(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return affine_map(y, *self._shift_and_log_scale(parameters), inverse=True)

    def _shift_and_log_scale(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = parameters.unbind(-1)
        return shift, tanh_bound(log_scale, self.max_log_scale)


class Additive(Elementwise):
    """Shift (NICE), which preserves volume: from data to noise `x = y + A`.

    Dinh, Krueger and Bengio, NICE: non-linear independent components estimation, ICLR 2015 workshop.

    Examples:
        >>> Additive().inverse_and_log_det(torch.tensor([3.0]), torch.tensor([[1.0]]))
        (tensor([4.]), tensor([0.]))
    """

    num_parameters = 1

    def forward_and_log_det(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return x - parameters.squeeze(-1), torch.zeros_like(x)

    def inverse_and_log_det(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return y + parameters.squeeze(-1), torch.zeros_like(y)


class _Bend(Elementwise):
    """A bend of each coordinate that is nonlinear, behind an affine map from data to noise, by which training goes."""

    affine: Affine

    def forward_and_log_det(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        of_affine, of_bend = self._split(parameters)
        x, slope = self._unbent(x, of_bend)
        y, log_det = self.affine.forward_and_log_det(x, of_affine)
        return y, log_det - slope.log()

    def inverse_and_log_det(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        of_affine, of_bend = self._split(parameters)
        y, log_det = self.affine.inverse_and_log_det(y, of_affine)
        x, slope = self._bent(y, of_bend)
        return x, log_det + slope.log()

    def _bent(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Carry data to noise: the images and the slopes there, given parameters `(K - 2, *batch, M)`."""
        raise NotImplementedError

    def _unbent(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Undo `_bent`: the preimages, and the slopes of `_bent` there."""
        raise NotImplementedError

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters of the affine map, `(*batch, M, 2)`, and of the bend, each contiguous, which is faster."""
        rows = parameters.movedim(-1, 0).contiguous()
        of_affine, of_bend = rows.split([2, len(rows) - 2])
        return of_affine.movedim(0, -1), of_bend


class RationalQuadraticSpline(_Bend):
    """Scale and shift, then a monotone rational-quadratic spline (neural spline flows), from data to noise.

    Durkan, Bekasov, Murray and Papamakarios, Neural spline flows, NeurIPS 2019. Outside of `[-bound, bound]` the spline
    is the identity. Both directions have a closed form.

    Args:
        num_bins: number of bins.
        bound: where the spline ends, in units of the noise.
        max_log_scale: smooth bound of the log-scale of the affine map.

    Raises:
        ValueError: if there are fewer than two bins, or a bound is not positive and finite.

    Examples:
        >>> spline = RationalQuadraticSpline(num_bins=8)
        >>> noise, log_det = spline.inverse_and_log_det(torch.randn(5, 1), torch.randn(5, 1, spline.num_parameters))
        >>> noise.shape, log_det.shape
        (torch.Size([5, 1]), torch.Size([5, 1]))
    """

    def __init__(self, num_bins: int = 8, bound: float = 3.0, max_log_scale: float = 1.0) -> None:
        if num_bins < 2:
            raise ValueError(f"num_bins must be at least 2, got {num_bins}")
        if not 0 < bound < float("inf"):
            raise ValueError(f"bound must be positive and finite, got {bound}")
        self.affine = Affine(max_log_scale)
        self.bound = bound
        self.num_parameters = 2 + 3 * num_bins - 1
        self.config = {"num_bins": num_bins, "bound": bound, "max_log_scale": max_log_scale}

    def _bent(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return rational_quadratic(y, parameters, self.bound)

    def _unbent(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return rational_quadratic_inverse(x, parameters, self.bound)


class CubicRational(_Bend):
    """Scale and shift, then terms `x + lambda (x - gamma) / (1 + (x - gamma)^2 / sigma^2)`, from data to noise.

    Analytic bijections, arXiv 2601.10774. The terms act one after the other, are smooth everywhere, and are the
    identity far away. `-0.95 < lambda < 7.5` keeps their slopes positive, and `sigma` stays between 0.05 and 20. From
    noise to data each is the one real root of a cubic polynomial.

    Args:
        num_terms: number of terms.
        max_log_scale: smooth bound of the log-scale of the affine map.

    Raises:
        ValueError: if there is no term, or the bound is not positive and finite.

    Examples:
        >>> bend = CubicRational(num_terms=4)
        >>> noise, log_det = bend.inverse_and_log_det(torch.randn(5, 1), torch.randn(5, 1, bend.num_parameters))
        >>> noise.shape, log_det.shape
        (torch.Size([5, 1]), torch.Size([5, 1]))
    """

    def __init__(self, num_terms: int = 4, max_log_scale: float = 1.0) -> None:
        if num_terms < 1:
            raise ValueError(f"num_terms must be at least 1, got {num_terms}")
        self.affine = Affine(max_log_scale)
        self.num_parameters = 2 + 3 * num_terms
        self.config = {"num_terms": num_terms, "max_log_scale": max_log_scale}

    def _bent(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return cubic_rational(y, parameters)

    def _unbent(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return cubic_rational_inverse(x, parameters)


# By name, each under the bound of a layer's log-scale.
COUPLINGS: dict[str, Callable[[float], Elementwise]] = {
    "affine": Affine,
    "additive": lambda _: Additive(),
    "spline": lambda limit: RationalQuadraticSpline(max_log_scale=limit),
    "cubic": lambda limit: CubicRational(max_log_scale=limit),
}


def check_elementwise(elementwise: Any) -> Elementwise:
    """Return the elementwise map, or raise unless it is one that has parameters."""
    if not isinstance(elementwise, Elementwise):
        raise TypeError(
            f"expected an Elementwise, such as Affine(), got {elementwise!r}; a map of your own derives from "
            "pyro_pcflow.transforms.Elementwise, and an object of it is handed over"
        )
    count = elementwise.num_parameters
    if type(count) is not int or count < 1:
        raise ValueError(f"{elementwise!r} must have num_parameters of at least 1, got {count!r}")
    return elementwise
