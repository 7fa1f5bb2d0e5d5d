"""Bayesian neural networks: the weights of a flow as latents."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn
from torch.distributions import Distribution

__all__ = ["BayesianWeights", "fan_in_normal", "functional_copy"]

Prior = Callable[[str, Tensor], Distribution]


def fan_in_normal(name: str, parameter: Tensor) -> Distribution:
    """The fan-in normal prior over weights: variance one over the number of inputs; biases are standard normal.

    Source: Neal, Bayesian Learning for Neural Networks, 1996, section 2.1.

    Args:
        name: name of the parameter, which this prior ignores.
        parameter: of any shape.

    Returns:
        A distribution whose event has the shape of the parameter.

    Examples:
        >>> fan_in_normal("hidden.weight", torch.zeros(16, 4)).event_shape
        torch.Size([16, 4])
    """
    scale = 1 / math.sqrt(parameter.shape[-1]) if parameter.dim() > 1 else 1.0
    loc = torch.zeros_like(parameter.detach())
    return dist.Normal(loc, scale).to_event(parameter.dim())


class BayesianWeights(PyroModule):
    """A Bayesian neural network: a module whose parameters are latents with `PyroSample` priors.

    Pyro evaluates densities after the model has returned, when a `PyroSample` that is read inside a flow's `log_prob`
    can no longer become a sample site. Calling this module within a model samples every weight, at sites with the names
    of the parameters, and returns a copy of the module that holds the sampled values. To replace a prior:
    `setattr(weights, name, PyroSample(prior))`.

    Args:
        module: a flow, a transform, or any other module. Its parameters do not change; they give shapes, and priors may
            use them.
        prior: from a parameter's name and the parameter to a distribution whose event has the shape of the parameter.
        name: prefix of the sites.

    Raises:
        TypeError: if `module` is no module.
        ValueError: if a prior has another shape than its parameter.

    Examples:
        >>> import pyro
        >>> import pyro_pcflow as pcf
        >>> coupling = pcf.transforms.affine_point_coupling(3, hidden_dims=[8])
        >>> weights = BayesianWeights(coupling)
        >>> noise = dist.Normal(torch.zeros(3), 1.0).to_event(1)
        >>> def model(cloud):
        ...     point = dist.TransformedDistribution(noise, [weights()])
        ...     pyro.sample("cloud", pcf.PointCloud(point, num_points=len(cloud)), obs=cloud)
        >>> sites = pyro.poutine.trace(model).get_trace(torch.randn(5, 3)).stochastic_nodes
        >>> len(sites) == len(list(coupling.parameters()))
        True
    """

    def __init__(self, module: nn.Module, prior: Prior = fan_in_normal, *, name: str = "") -> None:
        if not isinstance(module, nn.Module):
            raise TypeError(f"expected a torch.nn.Module whose weights get priors, got {type(module).__name__}")
        super().__init__(name)
        # In a tuple the module stays unregistered: its parameters are no parameters of this one.
        self._template = (module,)
        self._shapes = {key: parameter.shape for key, parameter in module.named_parameters()}
        for key, parameter in module.named_parameters():
            distribution = prior(key, parameter)
            if distribution.event_shape != parameter.shape:
                raise ValueError(
                    f"expected a prior of event shape {tuple(parameter.shape)} for {key}, got "
                    f"{tuple(distribution.event_shape)}: .to_event({parameter.dim()}) declares every dimension an event"
                )
            setattr(self, key, PyroSample(distribution))

    def forward(self) -> nn.Module:
        """Sample the weights and return a copy of the module with them.

        Raises:
            ValueError: if a weight comes with a batch shape, as from vectorized particles.
        """
        weights = {key: getattr(self, key) for key in self._shapes}
        for key, value in weights.items():
            if value.shape != self._shapes[key]:
                raise ValueError(
                    f"expected one weight {key} of shape {tuple(self._shapes[key])}, got shape {tuple(value.shape)}: "
                    "weights cannot be batched, so use vectorize_particles=False and Predictive(..., parallel=False), "
                    "and call the module outside of every plate"
                )
        return functional_copy(self._template[0], weights)


def functional_copy(module: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """Copy a module with tensors in place of parameters, through which gradients flow.

    As `torch.func.functional_call`, which evaluates a module once, but for as many calls as you like and for every
    method. Buffers, and parameters that are not replaced, are shared with the original.

    Args:
        module: any module.
        weights: tensors by the names of `module.named_parameters()`.

    Raises:
        ValueError: if there is no parameter of such a name.

    Examples:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> doubled = functional_copy(layer, {"weight": 2 * layer.weight})
        >>> x = torch.ones(2)
        >>> bool((doubled(x) == 2 * layer(x)).all())
        True
    """
    unknown = set(weights) - {name for name, _ in module.named_parameters()}
    if unknown:
        raise ValueError(f"{type(module).__name__} has no parameters {', '.join(sorted(unknown))}")
    twin = copy.copy(module)
    twin._parameters = {
        name: weights.get(name, parameter)  # type: ignore[misc]
        for name, parameter in module._parameters.items()
    }
    twin._modules = {
        name: child
        if child is None
        else functional_copy(
            child,
            {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")},
        )
        for name, child in module._modules.items()
    }
    return twin
