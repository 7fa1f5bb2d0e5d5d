"""What a coupling does to one coordinate: elementwise bijections whose parameters a conditioner gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from pyro_pcflow.ops.coupling import affine_map, tanh_bound

__all__ = ["COUPLINGS", "Additive", "Affine", "Elementwise", "check_elementwise"]


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


# By name, each under the bound of a layer's log-scale.
COUPLINGS: dict[str, Callable[[float], Elementwise]] = {"affine": Affine, "additive": lambda _: Additive()}


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
