"""What a training minimises, and what it may ask of a module.

This is the one place that looks for attributes of a user's module; `docs/what-fit-needs.md` says the same in words.
"""

from __future__ import annotations

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_pcflow.data.strays import warn_of_strays
from pyro_pcflow.serialization import plain
from pyro_pcflow.transforms import Standardize

__all__ = [
    "CLOUD_OPTIONS",
    "Amortised",
    "Objective",
    "check_module",
    "cloud_options",
    "completer_of",
    "config_of",
    "context_dim_of",
    "corrected_guide_of",
    "data_dtype_of",
    "dtype_of",
    "is_cloud_model",
    "is_completer",
    "is_normalized",
    "learning_rate_of",
    "log_prob_of",
    "missing_attributes",
    "model_and_guide",
    "noise_input_of",
    "num_classes_of",
    "num_clouds_of",
    "one_pass_methods",
    "origin_of",
    "point_dim_of",
    "prior_of",
    "set_units",
    "share_of_rows",
    "weight_decay_of",
]

# Options of a model and its guide: a module is given those that their signatures name.
CLOUD_OPTIONS = ("labels", "noise_level", "num_points", "kl_weight", "index", "encoder_points", "encoder_mask")
# Of points that units were not made for: standard deviations between their means, and the ratio of these deviations.
FAR, OTHER_SPREAD = 10.0, 10.0
# Cautious, of a module that does not say.
LEARNING_RATE = 3e-3
# Transforms are evaluated through these methods, past the hooks of `torch.nn.Module.__call__`.
ONE_PASS = ("transform_and_log_det", "inverse_and_log_det")


@runtime_checkable
class Amortised(Protocol):
    """An amortised posterior over the latents of a model of clouds, as `pyro_pcflow.infer.Completer` is one."""

    def views(self, points: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What a sensor sees of clouds `(B, N, D)`, at random: points and their mask."""

    def encode(self, clouds: Tensor, mask: Tensor | None, *, labels: Tensor | None) -> Distribution:
        """The posterior over the latents of whole clouds."""

    def to_noise(self, latents: Tensor, *, labels: Tensor | None) -> Tensor:
        """The noise that the prior carries to latents."""

    def noise_prior(self, labels: Tensor | None) -> Distribution:
        """The density of this noise under the prior."""

    def simulate(self, num_clouds: int, num_points: int, *, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """The noise and the points of clouds that the model draws."""

    def guesses(self, partial: Tensor, mask: Tensor | None, *, labels: Tensor | None) -> Sequence[Distribution]:
        """The posterior over the noise given some points of clouds, each better than the one before."""


class Objective(ABC):
    """What a training minimises and on what data: batches, their loss, and scores of held-out data.

    `fit` builds `ExactLikelihood` or `EvidenceLowerBound` from its data, or takes an objective of yours. A subclass
    defines `batch` and `loss`, and whatever else it needs.

    Attributes:
        points_per_step: points that a step takes, for the speed that is logged.
        score: which of the scores that `evaluate` returns is shown, and compared by early stopping; higher is better.
        evaluates: whether `evaluate` has held-out data.
        eval_every, patience: those of `Logging` and `Optimization` where they are left to "auto".
        progress: how much of the training is done, from 0 to 1, as `fit` says before each step.
        second_phase: the share of the training after which a second phase begins, with a learning rate that begins
            anew as well, a quarter as high; 1 for none.

    Examples:
        >>> import pyro_pcflow as pcf
        >>> class Weighted(Objective):
        ...     '''Maximum likelihood where each point has a weight.'''
        ...     def __init__(self, flow, points, weights):
        ...         self.flow, self.points, self.weights = flow, points, weights
        ...     def batch(self, step):
        ...         chosen = torch.randint(len(self.points), (64,))
        ...         return self.points[chosen], self.weights[chosen]
        ...     def loss(self, batch):
        ...         points, weights = batch
        ...         return -(weights * self.flow.log_prob(points)).mean()
        >>> flow = pcf.PointCloudFlow(2, num_couplings=2, hidden_dims=[8])
        >>> objective = Weighted(flow, torch.randn(500, 2), torch.rand(500))
        >>> pcf.fit(flow, objective=objective, max_steps=5, device="cpu").steps
        5
    """

    points_per_step: int = 0
    score: str = "nats_per_point"
    evaluates: bool = False
    eval_every: int = 500
    patience: int | None = None
    progress: float = 0.0
    second_phase: float = 1.0

    @abstractmethod
    def batch(self, step: int) -> Any:
        """The training data of the step that follows `step` earlier ones.

        A run is resumed to the last bit if the batch follows from `step` and torch's random numbers alone.

        Args:
            step: number of earlier steps.
        """

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """A differentiable scalar to minimise, by convention in nats per point.

        Args:
            batch: from `batch` or `share`.
        """

    def held(self) -> Collection[nn.Parameter]:
        """Parameters that the present step leaves as they are, at their averages."""
        return ()

    def evaluate(self) -> dict[str, float]:
        """Scores of the held-out data by name; called without gradients."""
        return {}

    def share(self, batch: Any, rank: int, size: int) -> Any:
        """What one of several processes takes of a batch; the mean of their losses is the loss of the batch.

        Args:
            batch: the same for all processes.
            rank: number of the process, from 0.
            size: number of processes.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not say how several processes share a batch: define share"
        )

    def points_for_units(self) -> Tensor | None:
        """Training points, shape `(M, D)`, for the `normalize` of a module; None leaves its units alone."""
        return None

    def description(self) -> dict[str, Any]:
        """What identifies the data, in plain values: a run is resumed only with the same."""
        return {}

    def to(self, device: torch.device) -> None:  # noqa: B027
        """Move the data to the device of the training.

        Args:
            device: where the module is.
        """


def share_of_rows(count: int, rank: int, size: int) -> slice:
    """One process's part of a batch of `count` rows.

    Raises:
        ValueError: if the batch cannot be divided evenly.
    """
    if count % size:
        raise ValueError(
            f"a batch of {count} cannot be shared evenly by {size} processes: choose a batch_size that is a multiple "
            f"of {size}"
        )
    part = count // size
    return slice(rank * part, (rank + 1) * part)


def check_module(module: nn.Module) -> None:
    """Raise unless a module can be trained.

    Raises:
        TypeError: if it is no module.
        ValueError: if it has nothing to train.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"expected a torch.nn.Module to train, got {type(module).__name__}")
    dtype_of(module)


def missing_attributes(module: nn.Module, names: Iterable[str]) -> list[str]:
    """Those of some attributes that a module does not have; `decoder.log_prob` is one of its decoder's."""
    missing = []
    for name in names:
        try:
            attrgetter(name)(module)
        except AttributeError:
            missing.append(name)
    return missing


def is_cloud_model(module: nn.Module) -> bool:
    """Whether a module is trained on whole clouds, by its `model` and `guide`."""
    return callable(getattr(module, "model", None)) and callable(getattr(module, "guide", None))


def is_completer(module: nn.Module) -> bool:
    """Whether a module is trained on views of clouds, as a `Completer`."""
    return isinstance(module, Amortised)


def completer_of(module: nn.Module) -> Amortised:
    """A module as an amortised posterior.

    Raises:
        TypeError: if it is none.
    """
    if not isinstance(module, Amortised):
        raise TypeError(f"expected a Completer, got {type(module).__name__}")
    return module


def log_prob_of(module: nn.Module) -> Callable[..., Tensor]:
    """The `log_prob` of a density.

    Raises:
        TypeError: if there is none.
    """
    log_prob = getattr(module, "log_prob", None)
    if not callable(log_prob):
        raise TypeError(f"{type(module).__name__} has no log_prob(points) to maximise, nor a model and a guide")
    return log_prob


def model_and_guide(module: nn.Module) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The `model` and the `guide` of a model of clouds.

    Raises:
        TypeError: if one is missing.
    """
    if not is_cloud_model(module):
        raise TypeError(f"{type(module).__name__} has no model and guide: a density of points is for ExactLikelihood")
    return module.model, module.guide  # type: ignore[return-value]


def corrected_guide_of(module: nn.Module) -> tuple[nn.Module, Callable[..., Any]] | None:
    """A part of a model of clouds that improves its guide's posterior, and the guide with it; None without."""
    part, guide = getattr(module, "correction", None), getattr(module, "corrected_guide", None)
    return (part, guide) if isinstance(part, nn.Module) and callable(guide) else None


def prior_of(module: nn.Module) -> nn.Module | None:
    """The prior over latents, if a part of a model of clouds is called so."""
    part = getattr(module, "prior", None)
    return part if isinstance(part, nn.Module) else None


def cloud_options(module: nn.Module) -> tuple[str, ...]:
    """Which of `CLOUD_OPTIONS` the signatures of `model` and `guide` name.

    Raises:
        TypeError: if one names an option that the other does not take: Pyro gives both the same arguments.
    """
    model, guide = model_and_guide(module)
    named, takes_all = [], []
    for function in (model, guide):
        parameters = inspect.signature(function).parameters.values()
        named.append({parameter.name for parameter in parameters} & {*CLOUD_OPTIONS})
        takes_all.append(any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters))
    for (one, other), (name, others_name) in zip(
        ((0, 1), (1, 0)), (("model", "guide"), ("guide", "model")), strict=True
    ):
        missing = sorted(named[one] - named[other])
        if missing and not takes_all[other]:
            raise TypeError(
                f"{type(module).__name__}.{name} names {', '.join(missing)}, and {others_name} does not: Pyro gives "
                "both the same arguments, so name them in both"
            )
    return tuple(option for option in CLOUD_OPTIONS if option in named[0] | named[1])


def dtype_of(module: nn.Module) -> torch.dtype:
    """Data type of the parameters that are trained.

    Raises:
        ValueError: if there are none.
    """
    for parameter in module.parameters():
        if parameter.requires_grad:
            return parameter.dtype
    raise ValueError(f"{type(module).__name__} has no parameter that requires a gradient: there is nothing to train")


def data_dtype_of(module: nn.Module) -> torch.dtype | None:
    """Data type of the points that a density scores, of one that may subtract an origin; None if it does not say."""
    return getattr(module, "data_dtype", None)


def origin_of(module: nn.Module) -> Tensor | None:
    """What a density subtracts from points, if it does."""
    return getattr(module, "origin", None)


def is_normalized(module: nn.Module) -> bool:
    """Whether a module says that its units are set."""
    return bool(getattr(module, "normalized", False))


def point_dim_of(module: nn.Module) -> int | None:
    """Number of coordinates that a module expects, if it says so."""
    return getattr(module, "point_dim", None)


def in_units_of(module: nn.Module, points: Tensor) -> Tensor | None:
    """Points in the standard deviations of a module's training data, from their centre; None if it does not say."""
    units = getattr(module, "units", None)
    if not isinstance(units, Standardize):
        return None
    centre = units.loc.double() if units.origin is None else units.origin + units.loc
    return (points.detach().to(units.loc.device, torch.float64) - centre) / units.scale


def feature_dim_of(module: nn.Module) -> int:
    """How many of the last coordinates of a point are features with units of their own."""
    return getattr(module, "feature_dim", 0)


def context_dim_of(module: nn.Module) -> int | None:
    """Size of the context that a density expects, 0 for none; None if it does not say."""
    return getattr(module, "context_dim", None)


def learning_rate_of(module: nn.Module) -> float:
    """The learning rate that suits a module, if it says so."""
    return getattr(module, "learning_rate", LEARNING_RATE)


def weight_decay_of(module: nn.Module) -> float | Mapping[str, float]:
    """The weight decay that suits a module, or parts of it by their names, if it says so."""
    return getattr(module, "weight_decay", 0.0)


def num_classes_of(module: nn.Module) -> int | None:
    """Number of classes whose labels a model takes, 0 for none; None if it does not say."""
    return getattr(module, "num_classes", None)


def num_clouds_of(module: nn.Module) -> int | None:
    """Number of training clouds that a model has embeddings of; None if it embeds any cloud."""
    return getattr(module, "num_clouds", None)


def noise_input_of(module: nn.Module) -> bool:
    """Whether a model is told how much noise a cloud has, so that training varies it."""
    return bool(getattr(module, "noise_input", False))


def set_units(module: nn.Module, objective: Objective) -> None:
    """Give training points to a module that takes its units from data, or warn if those that it has are of others."""
    normalize = getattr(module, "normalize", None)
    points = objective.points_for_units() if callable(normalize) else None
    if callable(normalize) and points is not None:
        if is_normalized(module):
            _warn_of_other_units(module, points)
        else:
            warn_of_strays(points[..., : points.shape[-1] - feature_dim_of(module)])
            normalize(points)


def _warn_of_other_units(module: nn.Module, points: Tensor) -> None:
    exact = in_units_of(module, points)
    if exact is None:
        return
    away = float(exact.mean(0).norm())
    spread = float((exact - exact.mean(0)).square().mean().sqrt())
    if away > FAR or not 1 / OTHER_SPREAD <= spread <= OTHER_SPREAD:
        warnings.warn(
            f"the {type(module).__name__} has the units of other points: the mean of these lies {away:.3g} of its "
            f"standard deviations from its centre, and their standard deviation is {spread:.3g} of its own. Train a "
            "new one, or call its normalize with these points first, unless that is what you want",
            UserWarning,
            stacklevel=3,
        )


def config_of(module: nn.Module) -> dict[str, Any] | None:
    """Arguments that a module was built with, as plain values; None unless it and all its parts say so."""
    config = getattr(module, "config", None)
    if not isinstance(config, Mapping):
        return None
    try:
        return plain(config, "config")
    except TypeError:  # a part without a config, such as an encoder of yours
        return None


def one_pass_methods(layer: nn.Module) -> dict[str, Callable[..., Any]]:
    """Methods by which a transform is evaluated past its `__call__`, by name."""
    methods = {name: getattr(layer, name, None) for name in ONE_PASS if name not in vars(layer)}
    return {name: method for name, method in methods.items() if callable(method)}
