"""Mixtures of different point distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import Categorical, Distribution, constraints

__all__ = ["PointMixture"]


class PointMixture(TorchDistribution):
    """A point comes from one of `K` point distributions, which need not be of one kind.

    `log p(x) = log sum_k w_k p_k(x)`, exact, by log-sum-exp. torch's `MixtureSameFamily` wants the components in one
    batched distribution; here each is its own object, such as a flow and a uniform background.

    Args:
        logits: logarithms of the weights up to a constant, shape `(*batch, K)`.
        components: `K` distributions with `event_shape (D,)`; batch shapes broadcast. The first one's support is
            that of the mixture: where another one is narrower, it must return `-inf` outside instead of raising.

    Raises:
        TypeError: if a component is not a distribution.
        ValueError: if there are no components, their events differ, or the logits do not fit.

    Examples:
        >>> import pyro.distributions as dist
        >>> near, far = (dist.Normal(torch.full((3,), loc), 1.0).to_event(1) for loc in (0.0, 9.0))
        >>> mixture = PointMixture(torch.tensor([0.9, 0.1]).log(), [near, far])
        >>> mixture.responsibilities(torch.zeros(3)).round(decimals=3).tolist()
        [1.0, 0.0]
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - torch's own spelling

    def __init__(
        self, logits: Tensor, components: Sequence[Distribution], *, validate_args: bool | None = None
    ) -> None:
        self.components = list(components)
        for component in self.components:
            if not isinstance(component, Distribution):
                raise TypeError(f"expected point distributions as components, got {type(component).__name__}")
        # Under torch.jit a size can be a tensor, and equal tensors are not one entry of a set.
        events = {tuple(int(size) for size in component.event_shape) for component in self.components}
        if len(events) != 1 or len(next(iter(events))) != 1:
            raise ValueError(
                f"expected at least one component, all of one event shape (D,), got {len(self.components)} with the "
                f"event shapes {sorted(events)}"
            )
        if logits.dim() < 1 or logits.shape[-1] != len(self.components):
            raise ValueError(
                f"expected logits of shape (*batch, {len(self.components)}), one for each component, got "
                f"{tuple(logits.shape)}"
            )
        self.logits = logits.log_softmax(-1)
        shapes = [logits.shape[:-1], *(component.batch_shape for component in self.components)]
        try:
            batch_shape = torch.broadcast_shapes(*shapes)
        except RuntimeError as error:
            raise ValueError(
                f"the batch shapes of logits and components do not broadcast: {', '.join(map(str, map(tuple, shapes)))}"
            ) from error
        super().__init__(batch_shape, self.components[0].event_shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint | None:
        """The support of the first component."""
        return self.components[0].support

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> PointMixture:
        """Return the distribution with its batch shape broadcast to `batch_shape`."""
        batch_shape = torch.Size(batch_shape)
        return PointMixture(
            self.logits.expand(*batch_shape, len(self.components)),
            [component.expand(batch_shape) for component in self.components],
            validate_args=self.__dict__.get("_validate_args"),
        )

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw points, shape `(*sample_shape, *batch_shape, D)`."""
        return self.sample_with_labels(sample_shape)[0]

    def sample_with_labels(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Draw points together with the components that they come from.

        Args:
            sample_shape: as for `sample`.

        Returns:
            Points of shape `(*sample_shape, *batch_shape, D)`, and numbers of components without the last dimension.
        """
        with torch.no_grad():
            logits = self.logits.expand(*self.batch_shape, len(self.components))
            shape = torch.Size((*sample_shape, *self.batch_shape))
            # torch draws no empty sample.
            labels = (
                Categorical(logits=logits).sample(torch.Size(sample_shape))
                if shape.numel()
                else torch.zeros(shape, dtype=torch.long, device=logits.device)
            )
            draws = torch.stack(
                [component.expand(self.batch_shape).sample(torch.Size(sample_shape)) for component in self.components],
                -1,
            )
            chosen = labels[..., None, None].expand(*draws.shape[:-1], 1)
            return draws.gather(-1, chosen).squeeze(-1), labels

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of points in nats.

        Args:
            value: shape `(*sample_shape, *batch_shape, D)`.

        Returns:
            Shape `(*sample_shape, *batch_shape)`.
        """
        return self._joint(value).logsumexp(-1)

    def responsibilities(self, value: Tensor) -> Tensor:
        """The posterior probability of each component given a point: unsupervised parts of a cloud.

        Args:
            value: shape `(*sample_shape, *batch_shape, D)`.

        Returns:
            Shape `(*sample_shape, *batch_shape, K)`; sums to 1 over the last dimension.
        """
        return self._joint(value).softmax(-1)

    def _joint(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        log_probs = torch.broadcast_tensors(*(component.log_prob(value) for component in self.components))
        return torch.stack(log_probs, -1) + self.logits
