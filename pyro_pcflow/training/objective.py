"""What training maximises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn

__all__ = ["ExactLikelihood", "Objective", "objective_of"]


class Objective(Protocol):
    """What the loop asks about a batch of training data."""

    def loss(self, batch: Tensor) -> Tensor:
        """A differentiable scalar to minimise, in nats per point."""

    def log_prob(self, points: Tensor) -> Tensor:
        """Log-densities in nats, one for each point of the evaluation."""


class ExactLikelihood:
    """The mean negative log-density of a batch of points under a module's own `log_prob`.

    Args:
        module: has `log_prob`, from points of shape (M, D) to nats of shape (M,).
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._log_prob: Callable[[Tensor], Tensor] = module.log_prob  # type: ignore[assignment]

    def loss(self, batch: Tensor) -> Tensor:
        """The mean negative log-density of points of shape (M, D), in nats per point."""
        return -self.log_prob(batch).mean()

    def log_prob(self, points: Tensor) -> Tensor:
        """Log-densities of shape (M,) of points of shape (M, D).

        Raises:
            ValueError: if the module returns another shape.
        """
        log_prob = self._log_prob(points)
        # Any other shape would be averaged without a word.
        if log_prob.shape != points.shape[:-1]:
            raise ValueError(
                f"{type(self.module).__name__}.log_prob returned the shape {tuple(log_prob.shape)} for points of "
                f"shape {tuple(points.shape)}: expected one log-density for each point, {tuple(points.shape[:-1])}"
            )
        return log_prob


def objective_of(module: nn.Module) -> Objective:
    """Choose how a module is trained.

    Raises:
        TypeError: if it is no module, or has no `log_prob`.
        ValueError: if it is a conditional flow.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"expected a torch.nn.Module to train, got {type(module).__name__}")
    if getattr(module, "context_dim", 0) > 0:
        raise ValueError(
            f"a conditional flow (context_dim={module.context_dim}) needs a model that supplies its contexts: fit "
            "such a model, or a flow built with context_dim=0"
        )
    if not callable(getattr(module, "log_prob", None)):
        raise TypeError(f"{type(module).__name__} has no log_prob(points) to maximise")
    return ExactLikelihood(module)
